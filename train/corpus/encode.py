"""The last steps of a build, on the documents that were kept: overlap with the test set, tokenizer, token shards.

Shape suffixes: T documents.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from .contamination import GramIndex, GramSet, band
from .documents import Batch, read_batches
from .manifest import TOKENIZER, Count, ShardEntry, Side, Step
from .prepare import files_of
from .select import KEPT, Order
from .spec import Contamination, CorpusError, CorpusSpec
from .store import ShardWriter, sync, token_dtype
from .tokenizer import end_of_text_id, existing_tokenizer, load_tokenizer, train_tokenizer
from .words import hash_words, join_words
from .workspace import Workspace


class Overlaps(BaseModel):
    """For each held-out document in order: the share of its words that the training text holds in n-grams too."""

    shares: tuple[float, ...]
    kept: tuple[bool, ...]  # all, unless the spec drops those that are not clean
    steps: tuple[Step, ...]  # of each source


class TokenizerReceipt(BaseModel):
    vocab_size: int
    end_of_text_id: int
    sha256: str


class Encoded(BaseModel):
    """One side as token shards, with what was counted of each source (all sources, in order)."""

    shards: tuple[ShardEntry, ...]
    counts: tuple[Count, ...]
    text_sha256: str
    documents: tuple[tuple[int, str, int, int], ...]  # source, id, bytes, tokens; on the held-out sides alone


@dataclass(frozen=True)
class FoundIn:
    """What a worker does to a batch of training texts: which n-grams of the test side it holds."""

    grams: GramSet

    def __call__(self, texts: list[str]) -> NDArray[np.int64]:
        return self.grams.found_in(hash_words(texts))


def kept_batches(workspace: Workspace, spec: CorpusSpec, side: Side) -> Iterator[tuple[int, Batch]]:
    """The kept documents of one side, source by source: (source, batch). Held-out ones are cut to test_document_bytes."""
    kept_T = np.load(workspace.folder / KEPT)
    most = None if side == "train" else spec.test_document_bytes
    for part in Order.of(workspace, len(spec.sources)).parts:
        if part.side == side:
            row = part.first
            for batch in read_batches(files_of(workspace, part.source, side).clean):
                mine = kept_T[row : row + len(batch.ids)].tolist()
                row += len(batch.ids)
                ids = [id for id, kept in zip(batch.ids, mine, strict=True) if kept]
                texts = [text for text, kept in zip(batch.texts, mine, strict=True) if kept]
                yield part.source, Batch(ids, [beginning(text, most) for text in texts] if most else texts)


def beginning(text: str, most_bytes: int) -> str:
    """As much of the text as fits into `most_bytes` of UTF-8, ending before a space where there is one to end at."""
    data = text.encode()
    if len(data) <= most_bytes:
        return text
    cut = data[:most_bytes].decode(errors="ignore")  # half a character at the end is left out
    return cut.rsplit(maxsplit=1)[0] if len(cut.split(maxsplit=1)) > 1 else cut


def find_overlaps(workspace: Workspace, spec: CorpusSpec, contamination: Contamination) -> Overlaps:
    """Streams the training text past the n-grams of the test documents."""
    n_sources = len(spec.sources)
    test = join_words(hash_words(batch.texts) for _, batch in kept_batches(workspace, spec, "test"))
    grams = GramIndex.build(test, contamination.ngram)
    found = np.zeros(len(grams.grams_U), bool)
    train = (batch.texts for _, batch in kept_batches(workspace, spec, "train"))
    for indices in workspace.map(FoundIn(grams.distinct), train):
        found[indices] = True
    shares = grams.overlap(found)
    bands = [band(share) for share in shares.tolist()]
    kept = np.array([contamination.action == "flag" or each == "clean" for each in bands], bool)
    order, before_T = Order.of(workspace, n_sources), np.load(workspace.folder / KEPT)
    rows, after_T = np.flatnonzero(before_T & order.on("test")), before_T.copy()
    after_T[rows[~kept]] = False
    steps = []
    for source in range(n_sources):
        mine_T = order.source_T == source
        dropped = Counter(
            f"contamination: {each}" for each, row in zip(bands, rows, strict=True) if mine_T[row] and not after_T[row]
        )
        before, after = order.count(mine_T & before_T), order.count(mine_T & after_T)
        steps.append(Step(step="contamination", before=before, after=after, dropped=dict(sorted(dropped.items()))))
    return Overlaps(shares=tuple(shares.tolist()), kept=tuple(kept.tolist()), steps=tuple(steps))


def make_tokenizer(workspace: Workspace, spec: CorpusSpec, train_bytes: int) -> TokenizerReceipt:
    """Writes tokenizer.json: the one that the spec names, or one trained on (a sample of) the training text.

    Raises:
        CorpusError: the text has too few pairs for the vocabulary, or the named tokenizer is not there.
    """
    if spec.tokenizer is not None:
        tokenizer, name = existing_tokenizer(spec.tokenizer), spec.tokenizer.end_of_text
    else:
        share = min(1.0, spec.tokenizer_bytes / train_bytes)
        tokenizer, name = train_tokenizer(_sample(workspace, spec, share), spec.vocab_size), None
        if tokenizer.get_vocab_size() != spec.vocab_size:
            raise CorpusError(
                f"corpus {spec.name}: vocab_size = {spec.vocab_size} is more than the text can fill;"
                f" {tokenizer.get_vocab_size()} is the most"
            )
    path = workspace.folder / TOKENIZER
    tokenizer.save(str(path))
    sync(path)
    return TokenizerReceipt(
        vocab_size=max(tokenizer.get_vocab().values()) + 1,
        end_of_text_id=end_of_text_id(tokenizer, name),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def _sample(workspace: Workspace, spec: CorpusSpec, share: float) -> Iterator[str]:
    """Training texts, each with probability `share`, which a hash of the text decides."""
    for _, batch in kept_batches(workspace, spec, "train"):
        for text in batch.texts:
            if share >= 1 or int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) < share * 2**64:
                yield text


def encode(
    workspace: Workspace,
    spec: CorpusSpec,
    side: Side,
    chosen: TokenizerReceipt,
    out: Path,
    kept: tuple[bool, ...] | None,
) -> Encoded:
    """Writes the shards of one side: each document (of `kept`, where given) as the end-of-text token and then its own."""
    tokenizer = load_tokenizer(str(workspace.folder / TOKENIZER))
    writer = ShardWriter(out, side, spec.shard_tokens, token_dtype(chosen.vocab_size))
    counts = [Count(documents=0, bytes=0) for _ in spec.sources]
    stays = itertools.repeat(True) if kept is None else iter(kept)
    digest, documents = hashlib.sha256(), []
    for source, batch in kept_batches(workspace, spec, side):
        pairs = [pair for pair in zip(batch.ids, batch.texts, strict=True) if next(stays)]
        encodings = tokenizer.encode_batch_fast([text for _, text in pairs], add_special_tokens=False)
        for (id, text), encoding in zip(pairs, encodings, strict=True):
            tokens = np.array([chosen.end_of_text_id, *encoding.ids], writer.dtype)
            writer.write(tokens)
            data = text.encode()
            digest.update(data + b"\0")
            counts[source] += Count(documents=1, bytes=len(data), tokens=len(tokens))
            if side != "train":
                documents.append((source, id, len(data), len(tokens)))
    writer.close()
    return Encoded(
        shards=tuple(writer.shards),
        counts=tuple(counts),
        text_sha256=digest.hexdigest(),
        documents=tuple(documents),
    )
