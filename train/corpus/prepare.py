"""One source at a time: read its documents, hold some out, clean them, and take the hashes that deduplication needs."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from .clean import STEPS, Cleaned, Cleaner
from .dedup import digests
from .documents import Batch, DocumentWriter, read_batches
from .manifest import Count, Example, Side, Step
from .minhash import signatures
from .sources import Source
from .spec import CorpusError, CorpusSpec, NearDuplicates
from .store import sync
from .words import hash_words
from .workspace import Workspace

SIDES: tuple[Side, ...] = ("test", "validation", "train")
EXAMPLES, BEGINNING = 3, 200  # of dropped documents: how many a step keeps, and how many characters of each


class Read(BaseModel):
    """What was read of one source."""

    empty: int
    test: Count
    validation: Count
    train: Count
    test_sha256: str  # over the held-out texts as they were read

    @property
    def step(self) -> Step:
        """Reading as a step: empty documents are all it drops."""
        read = self.test + self.validation + self.train
        before = read + Count(documents=self.empty, bytes=0)
        return Step(step="read", before=before, after=read, dropped={"read: empty": self.empty} if self.empty else {})


class Prepared(BaseModel):
    """What cleaning left of one source."""

    test: Count
    validation: Count
    train: Count
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Files:
    """Where one side of one source lies in the workspace."""

    read: Path
    clean: Path
    sizes: Path  # int64 (T,): bytes of each text
    digests: Path  # uint64 (T, 2)
    signatures: Path  # uint32 (T, H), rows appended


def files_of(workspace: Workspace, source: int, side: Side) -> Files:
    stem = workspace.folder / f"{source}-{side}"
    return Files(
        *(Path(f"{stem}.{end}") for end in ("read.parquet", "clean.parquet", "sizes", "digests", "signatures"))
    )


def is_test(text: str, test_fraction: float) -> bool:
    """Whether a document is held out: its own text decides, so no reordering or addition moves it."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") < test_fraction * 2**64


def side_of(text: str, spec: CorpusSpec) -> Side:
    """The side of a document. Validation documents are those that a larger test_fraction would hold out next."""
    if is_test(text, spec.test_fraction):
        return "test"
    if spec.validation_fraction and is_test(text, spec.test_fraction + spec.validation_fraction):
        return "validation"
    return "train"


def read(workspace: Workspace, number: int, source: Source, spec: CorpusSpec) -> Read:
    """Writes a source's documents: each held-out side until its bytes are reached, training text up to `max_bytes`.

    The test candidates depend on the source, test_fraction and test_bytes alone, those of the validation side on its own
    two as well: where training text is full before them, reading goes on until they are.

    Raises:
        CorpusError: a document is too long, or there is none.
    """
    files = {side: files_of(workspace, number, side).read for side in SIDES}
    limit: dict[Side, float] = {
        "test": held_out_limit(spec, number, spec.test_bytes),
        "validation": held_out_limit(spec, number, spec.validation_bytes),
        "train": spec.sources[number].max_bytes or math.inf,
    }
    full: dict[Side, bool] = {"test": False, "validation": spec.validation_fraction is None, "train": False}
    empty, digest = 0, hashlib.sha256()
    with ExitStack() as stack:
        writers = {side: stack.enter_context(DocumentWriter(path)) for side, path in files.items()}
        for document in source.documents():
            text, size = document.text, len(document.text.encode())
            if size > spec.max_document_bytes:
                raise CorpusError(
                    f"{source.name}: document {document.id} has {size:,} bytes where max_document_bytes is"
                    f" {spec.max_document_bytes:,}: split it, or allow more"
                )
            if not text.strip():
                empty += 1
                continue
            side = side_of(text, spec)
            if full[side]:
                side = "train"
            writer = writers[side]
            full[side] = full[side] or writer.count.bytes + size > limit[side]  # the first that does not fit closes it
            if not full[side]:
                writer.add(document.id, text)
                if side == "test":
                    digest.update(text.encode() + b"\0")
            if all(full.values()):
                break
    test, validation, train = (writers[side].count for side in SIDES)
    if not (test + validation + train).documents:
        raise CorpusError(f"{source.name}: no document with text in it")
    for path in files.values():
        sync(path)
    return Read(empty=empty, test=test, validation=validation, train=train, test_sha256=digest.hexdigest())


def held_out_limit(spec: CorpusSpec, number: int, most_bytes: int | None) -> float:
    """Bytes that one source may hold out on a side of `most_bytes`: its share by weight, or an equal one."""
    if most_bytes is None:
        return math.inf
    weights = [source.weight or 1.0 for source in spec.sources]
    return most_bytes * weights[number] / sum(weights)


@dataclass(frozen=True)
class Work:
    """What a worker does to a batch of texts."""

    cleaner: Cleaner
    near: NearDuplicates | None

    def __call__(self, batch: Batch) -> Done:
        cleaned = self.cleaner(batch.texts)
        kept = [text for text in cleaned.texts if text is not None]
        return Done(
            batch=batch,
            cleaned=cleaned,
            digests_T2=digests(kept),
            signatures_TH=signatures(hash_words(kept), self.near) if self.near else np.empty((len(kept), 0), np.uint32),
        )


@dataclass(frozen=True)
class Done:
    """A batch after cleaning; arrays have a row for each text that was kept."""

    batch: Batch
    cleaned: Cleaned
    digests_T2: NDArray[np.uint64]
    signatures_TH: NDArray[np.uint32]


def prepare(workspace: Workspace, number: int, read: Read, spec: CorpusSpec) -> Prepared:
    """Cleans a source's documents and writes those that are left, with their hashes.

    Raises:
        CorpusError: a word list or library that the spec asks for is not there.
    """
    quality = spec.sources[number].quality
    cleaner = Cleaner.of(spec.clean, spec.clean.quality if quality is None else quality)
    work = Work(cleaner, spec.near or None)
    tally = Tally()
    counts: dict[Side, Count] = {}
    for side in SIDES:
        files = files_of(workspace, number, side)
        with (
            DocumentWriter(files.clean) as writer,
            files.sizes.open("wb") as sizes,
            files.digests.open("wb") as digest_file,
            files.signatures.open("wb") as signature_file,
        ):
            for done in workspace.map(work, read_batches(files.read)):
                tally.add(done)
                kept = [(i, t) for i, t in zip(done.batch.ids, done.cleaned.texts, strict=True) if t is not None]
                for id, text in kept:
                    writer.add(id, text)
                sizes.write(np.array([len(text.encode()) for _, text in kept], np.int64).tobytes())
                digest_file.write(done.digests_T2.tobytes())
                signature_file.write(done.signatures_TH.tobytes())
        for path in (files.clean, files.sizes, files.digests, files.signatures):
            sync(path)
        counts[side] = writer.count
    return Prepared(**counts, steps=tally.steps(read.step.after))


class Tally:
    """Counts of the cleaning steps, batch by batch."""

    def __init__(self) -> None:
        self.after = {step: Count(documents=0, bytes=0) for step in STEPS}
        self.dropped: dict[str, Counter[str]] = {step: Counter() for step in STEPS}
        self.examples: dict[str, list[Example]] = {step: [] for step in STEPS}
        self.changed = 0

    def add(self, done: Done) -> None:
        self.changed += done.cleaned.changed
        for step, sizes_T in zip(STEPS, done.cleaned.sizes, strict=True):
            self.after[step] += Count(documents=int((sizes_T > 0).sum()), bytes=int(sizes_T.sum()))
        for id, text, reason in zip(done.batch.ids, done.batch.texts, done.cleaned.dropped_by, strict=True):
            if reason is not None:
                step = reason.partition(":")[0]
                self.dropped[step][reason] += 1
                if len(self.examples[step]) < EXAMPLES:
                    self.examples[step].append(Example(id=id, reason=reason, beginning=text[:BEGINNING]))

    def steps(self, before: Count) -> tuple[Step, ...]:
        """The steps in order, the first of them on `before`."""
        steps = []
        for step in STEPS:
            steps.append(
                Step(
                    step=step,
                    before=before,
                    after=self.after[step],
                    dropped=dict(sorted(self.dropped[step].items())),
                    changed=self.changed if step == "unicode" else 0,
                    examples=tuple(self.examples[step]),
                )
            )
            before = self.after[step]
        return tuple(steps)
