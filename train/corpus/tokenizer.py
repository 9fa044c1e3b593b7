"""Byte-level BPE, trained on the training documents alone (Sennrich et al. 2016; bytes as in Radford et al. 2019), or an existing one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from .sources.document import one_line
from .sources.hub import HUB_SECONDS, within
from .spec import CorpusError, ExistingTokenizer

END_OF_TEXT = "<|endoftext|>"
USUAL_NAMES = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>", "[SEP]")
# Bytes that no UTF-8 text holds (RFC 3629): leaving them out makes room for merges, and for a vocabulary of 256.
NEVER = (0xC0, 0xC1, *range(0xF5, 0x100))


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A tokenizer of `vocab_size` tokens where the text has enough pairs; the same texts give the same one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=_alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    return tokenizer


def load_tokenizer(path: str) -> Tokenizer:
    """The tokenizer of a corpus, as it encoded the corpus."""
    tokenizer = Tokenizer.from_file(path)
    # Text that spells the special token is text: without this, it would be encoded as an end of document.
    tokenizer.encode_special_tokens = True
    return tokenizer


def existing_tokenizer(spec: ExistingTokenizer) -> Tokenizer:
    """A tokenizer.json on disk or on the hub.

    Raises:
        CorpusError: it is not there, or not a tokenizer.
    """
    if spec.file is not None:
        if not Path(spec.file).is_file():
            raise CorpusError(f"tokenizer.file = {spec.file!r}: no such file")
        path = spec.file
    else:
        path = _from_hub(str(spec.hub), str(spec.revision))
    try:
        return Tokenizer.from_file(path)
    except Exception as error:  # the library raises bare Exception
        raise CorpusError(f"{path}: not a tokenizer.json: {' '.join(str(error).split())}") from None


def _from_hub(repository: str, revision: str) -> str:
    """The file at that commit: from the local cache, else from the hub, asked first whether it is there at all."""
    from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache

    if isinstance(cached := try_to_load_from_cache(repository, "tokenizer.json", revision=revision), str):
        return cached
    try:
        if constants.HF_HUB_OFFLINE:
            raise ConnectionError("HF_HUB_OFFLINE is set, and the local cache does not hold it")
        within(HUB_SECONDS, lambda: HfApi().model_info(repository, revision=revision, timeout=HUB_SECONDS))
        return hf_hub_download(repository, "tokenizer.json", revision=revision)
    except Exception as error:  # connection, missing repository, missing file: each raises a class of its own
        raise CorpusError(
            f"tokenizer.hub = {repository!r}: no tokenizer.json at {revision[:12]}: {one_line(error, 120)};"
            " tokenizer.file takes a local one"
        ) from None


def end_of_text_id(tokenizer: Tokenizer, name: str | None) -> int:
    """The id of the token that opens every document.

    Raises:
        CorpusError: the tokenizer has none of that name.
    """
    for candidate in (name,) if name else USUAL_NAMES:
        id = tokenizer.token_to_id(candidate)
        if id is not None:
            return int(id)
    raise CorpusError(
        f"tokenizer.end_of_text: the tokenizer has no token {name!r}"
        if name
        else f"tokenizer.end_of_text: name it; the tokenizer has none of {', '.join(USUAL_NAMES)}"
    )


def _alphabet() -> list[str]:
    """The printable stand-ins of all bytes but NEVER, sorted: byte-level BPE writes a byte as one character."""
    direct = {byte: chr(byte) for byte in (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))}
    others = (byte for byte in range(256) if byte not in direct)
    stand_in = direct | {byte: chr(256 + i) for i, byte in enumerate(others)}
    assert set(stand_in.values()) == set(pre_tokenizers.ByteLevel.alphabet())
    return sorted(stand_in[byte] for byte in range(256) if byte not in NEVER)
