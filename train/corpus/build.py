"""From a spec to a finished corpus: read, split, tokenise, store. Built once, then reused by the hash of its contents."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
from filelock import FileLock
from tokenizers import Tokenizer

from .sources import Document, Source, read_package
from .spec import CorpusError, CorpusSpec
from .store import (
    AGAIN,
    DTYPE,
    EOT_ID,
    FORMAT_VERSION,
    MANIFEST,
    TOKENIZER,
    Corpus,
    Count,
    DocumentEntry,
    Manifest,
    ShardWriter,
    SourceEntry,
    read_corpus,
    sync,
)
from .tokenizer import train_tokenizer

ENCODE_BATCH = 64  # documents handed to the tokenizer at once
UNFINISHED = ".unfinished"


def corpora_root(root: Path | None = None) -> Path:
    """The folder of built corpora: `root`, else $SIXND_CORPORA, else ./corpora."""
    return root or Path(os.environ.get("SIXND_CORPORA", "corpora"))


def open_corpus(name: str, root: Path | None = None) -> Corpus:
    """The corpus of a hash under `root`, or in the folder that `name` is.

    Raises:
        CorpusError: it is missing or damaged.
    """
    folder = Path(name)
    return read_corpus(folder if (folder / MANIFEST).is_file() else corpora_root(root) / name)


def build_corpus(spec: CorpusSpec, root: Path | None = None, say: Callable[[str], None] = print) -> Corpus:
    """The corpus of `spec`: opened where it was built before, built otherwise.

    Raises:
        CorpusError: a source is missing or not what was pinned, or nothing is left for training or test.
    """
    return build_from_sources(spec, [read_package(name) for name in spec.packages], root, say)


def build_from_sources(
    spec: CorpusSpec, sources: list[Source], root: Path | None = None, say: Callable[[str], None] = print
) -> Corpus:
    """`build_corpus` on sources already read."""
    folder, name = corpora_root(root), corpus_hash(spec, sources)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{name}.lock"):
        if (folder / name / MANIFEST).is_file():
            return read_corpus(folder / name)
        if (folder / name).exists():  # a build is renamed into place whole, so somebody took the manifest away
            raise CorpusError(f"{folder / name}: {MANIFEST} is missing; {AGAIN}")
        for leftover in folder.glob(f"*{UNFINISHED}"):
            if leftover.name.startswith(name):  # the lock is ours, so whoever made it is gone
                shutil.rmtree(leftover)
        temporary = folder / f"{name}{UNFINISHED}"
        temporary.mkdir()
        try:
            _write(spec, name, sources, temporary, say)
        except BaseException:  # Ctrl-C and a full disk included: what is half built is of no use
            shutil.rmtree(temporary)
            raise
        sync(temporary)
        temporary.rename(folder / name)
        sync(folder)
    return read_corpus(folder / name)


def corpus_hash(spec: CorpusSpec, sources: list[Source]) -> str:
    """Name of the corpus: a hash of everything that decides its tokens, known before any is made."""
    recipe = {
        "format": FORMAT_VERSION,
        "spec": spec.model_dump(mode="json", exclude={"name"}),
        "sources": {source.name: source.sha256 for source in sources},
        "tokenizers": version("tokenizers"),
    }
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]


def is_test(text: str, test_fraction: float) -> bool:
    """Whether a document is held out: its own text decides, so no reordering or addition moves it."""
    return int.from_bytes(_digest(text)[:8], "big") < test_fraction * 2**64


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def split(documents: Iterable[Document], test_fraction: float) -> tuple[list[Document], list[Document]]:
    """Train and test documents, each in the order of the hash of its text, which mixes the sources.

    A text that comes twice is kept once, so that none stands on both sides or is counted double.
    """
    unique = {_digest(document.text): document for document in documents if document.text}
    ordered = [unique[digest] for digest in sorted(unique)]
    # The split looks at the first bytes too, so the order within each side starts from the last ones.
    ordered.sort(key=lambda document: _digest(document.text)[::-1])
    train = [document for document in ordered if not is_test(document.text, test_fraction)]
    test = [document for document in ordered if is_test(document.text, test_fraction)]
    return train, test


def _write(spec: CorpusSpec, name: str, sources: list[Source], folder: Path, say: Callable[[str], None]) -> None:
    started = time.perf_counter()
    train, test = split((document for source in sources for document in source.documents()), spec.test_fraction)
    for side, documents in (("training", train), ("test", test)):
        if not documents:
            raise CorpusError(f"corpus {spec.name}: no {side} document at test_fraction = {spec.test_fraction}")
    say(
        f"corpus {spec.name}: {len(train)} training and {len(test)} test documents; training a tokenizer of {spec.vocab_size}"
    )
    tokenizer = train_tokenizer((document.text for document in train), spec.vocab_size)
    if tokenizer.get_vocab_size() != spec.vocab_size:
        raise CorpusError(
            f"corpus {spec.name}: vocab_size = {spec.vocab_size} is more than the text can fill;"
            f" {tokenizer.get_vocab_size()} is the most"
        )
    tokenizer.save(str(folder / TOKENIZER))
    sync(folder / TOKENIZER)
    entries, shards = {}, {}
    for side, documents in (("train", train), ("test", test)):
        writer = ShardWriter(folder, side, spec.shard_tokens)
        entries[side] = _encode(documents, tokenizer, writer)
        shards[side] = tuple(writer.shards)
    total = {side: _count(entries[side]) for side in entries}
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        hash=name,
        name=spec.name,
        spec=spec,
        sources=tuple(
            SourceEntry(
                name=source.name,
                version=source.version,
                licence=source.licence,
                sha256=source.sha256,
                train=_count([entry for entry in entries["train"] if entry.source == source.name]),
                test=_count([entry for entry in entries["test"] if entry.source == source.name]),
            )
            for source in sources
        ),
        train=total["train"],
        test=total["test"],
        vocab_size=spec.vocab_size,
        bytes_per_token=total["train"].bytes / total["train"].tokens,
        tokenizer_sha256=hashlib.sha256((folder / TOKENIZER).read_bytes()).hexdigest(),
        dtype=DTYPE.str,
        train_shards=shards["train"],
        test_shards=shards["test"],
        test_documents=tuple(entries["test"]),
        versions={"sixnd": version("sixnd"), "tokenizers": version("tokenizers"), "python": platform.python_version()},
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
    sync(folder / MANIFEST)
    say(
        f"corpus {spec.name}: {total['train'].tokens:,} training and {total['test'].tokens:,} test tokens"
        f" ({manifest.bytes_per_token:.2f} bytes a token) in {time.perf_counter() - started:.0f} s"
    )


def _encode(documents: list[Document], tokenizer: Tokenizer, writer: ShardWriter) -> list[DocumentEntry]:
    entries = []
    for start in range(0, len(documents), ENCODE_BATCH):
        batch = documents[start : start + ENCODE_BATCH]
        for document, encoding in zip(batch, tokenizer.encode_batch_fast([d.text for d in batch]), strict=True):
            tokens = np.array([EOT_ID, *encoding.ids], dtype=np.uint16)
            writer.write(tokens)
            size = len(document.text.encode())
            entries.append(DocumentEntry(source=document.source, id=document.id, bytes=size, tokens=len(tokens)))
    writer.close()
    return entries


def _count(entries: list[DocumentEntry]) -> Count:
    return Count(documents=len(entries), bytes=sum(e.bytes for e in entries), tokens=sum(e.tokens for e in entries))
