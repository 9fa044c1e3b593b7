"""Which documents stay: the first of each text, the first of each near-duplicate cluster, and then the mixture.

Documents have one fixed order: every source's test candidates, then its validation candidates, then every source's training
documents. So the first copy of a text that stands on several sides is the held-out one, no amount of training text changes
the held-out sides, and a validation side does not change the test set.

Shape suffixes: T documents of all sources and sides, in that order.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from .dedup import clusters, first_copies, near_first
from .documents import read_batches
from .manifest import Count, Example, Side, Step
from .prepare import BEGINNING, EXAMPLES, SIDES, files_of
from .spec import CorpusError, CorpusSpec, NearDuplicates
from .store import sync
from .words import mix
from .workspace import Workspace

KEPT = "kept.npy"


class Selected(BaseModel):
    """Per source: the steps exact, near and mixture, and what is left on each side."""

    steps: tuple[tuple[Step, ...], ...]
    test: tuple[Count, ...]
    validation: tuple[Count, ...]
    train: tuple[Count, ...]


@dataclass(frozen=True)
class Part:
    """One side of one source: its rows among all documents are [first, last)."""

    source: int
    side: Side
    first: int
    last: int


@dataclass(frozen=True)
class Order:
    """All cleaned documents in their fixed order."""

    parts: tuple[Part, ...]
    sizes_T: NDArray[np.int64]
    source_T: NDArray[np.int64]
    side_T: NDArray[np.int64]  # index into SIDES

    @classmethod
    def of(cls, workspace: Workspace, n_sources: int) -> Order:
        keys: list[tuple[int, Side]] = [(source, side) for side in SIDES for source in range(n_sources)]
        sizes = [np.fromfile(files_of(workspace, source, side).sizes, np.int64) for source, side in keys]
        ends = np.cumsum([0, *(len(each) for each in sizes)]).tolist()
        counts = [len(each) for each in sizes]
        return cls(
            parts=tuple(Part(source, side, ends[i], ends[i + 1]) for i, (source, side) in enumerate(keys)),
            sizes_T=np.concatenate(sizes),
            source_T=np.repeat([source for source, _ in keys], counts),
            side_T=np.repeat([SIDES.index(side) for _, side in keys], counts),
        )

    def on(self, side: Side) -> NDArray[np.bool_]:
        """(T,): which documents are on a side."""
        return np.asarray(self.side_T == SIDES.index(side))

    def count(self, chosen_T: NDArray[np.bool_]) -> Count:
        return Count(documents=int(chosen_T.sum()), bytes=int(self.sizes_T[chosen_T].sum()))


def select(workspace: Workspace, spec: CorpusSpec) -> Selected:
    """Writes which documents stay (bool (T,), kept.npy) and counts what each step dropped.

    Raises:
        CorpusError: nothing is left on a side.
    """
    order = Order.of(workspace, len(spec.sources))
    digest_files = [files_of(workspace, part.source, part.side).digests for part in order.parts]
    digests_T2 = np.concatenate([np.fromfile(file, np.uint64).reshape(-1, 2) for file in digest_files])
    copy_of_T = first_copies(digests_T2)
    itself_T = np.arange(len(copy_of_T))
    stages = {"exact": (copy_of_T == itself_T) | (not spec.exact)}
    near_of_T = itself_T
    if spec.near:
        with _all_signatures(workspace, order, spec.near) as signatures_TH:
            near_of_T = near_first(signatures_TH, spec.near, stages["exact"])
    stages["near"] = stages["exact"] & _stays_near(near_of_T, order, spec.near)
    stages["mixture"] = stages["near"] & _mixture(stages["near"], order, spec, mix(digests_T2[:, 0]))
    kept_T = stages["mixture"]
    wanted: list[tuple[Side, str, str]] = [
        ("test", "test", f"test_fraction = {spec.test_fraction}"),
        ("train", "training", f"test_fraction = {spec.test_fraction}"),
    ]
    if spec.validation_fraction is not None:
        wanted.append(("validation", "validation", f"validation_fraction = {spec.validation_fraction}"))
    for side, word, fraction in wanted:
        if not (kept_T & order.on(side)).any():
            raise CorpusError(
                f"corpus {spec.name}: no {word} document is left at {fraction} (of {order.on(side).sum():,} after cleaning)"
            )
    np.save(workspace.folder / KEPT, kept_T)
    sync(workspace.folder / KEPT)
    reasons = {"exact": ("exact: same text as", copy_of_T), "near": ("near: resembles", near_of_T)}
    steps = []
    for source in range(len(spec.sources)):
        mine_T, before_T, of_source = order.source_T == source, np.ones_like(kept_T), []
        for name, after_T in stages.items():
            dropped_T = mine_T & before_T & ~after_T
            of_source.append(
                Step(
                    step=name,
                    before=order.count(mine_T & before_T),
                    after=order.count(mine_T & after_T),
                    dropped={name: int(dropped_T.sum())} if dropped_T.any() else {},
                    examples=_examples(workspace, order, dropped_T, *reasons[name]) if name in reasons else (),
                )
            )
            before_T = after_T
        steps.append(tuple(of_source))
    test, validation, train = (
        tuple(order.count(kept_T & order.on(side) & (order.source_T == source)) for source in range(len(spec.sources)))
        for side in SIDES
    )
    return Selected(steps=tuple(steps), test=test, validation=validation, train=train)


def _stays_near(near_of_T: NDArray[np.int64], order: Order, near: NearDuplicates | Literal[False]) -> NDArray[np.bool_]:
    """The first of each cluster, or, where all are kept, those on the side of their cluster's first."""
    if near and near.keep == "all":
        return np.asarray(order.side_T[clusters(near_of_T)] == order.side_T)
    return np.asarray(near_of_T == np.arange(len(near_of_T)))


def _mixture(
    alive_T: NDArray[np.bool_], order: Order, spec: CorpusSpec, key_T: NDArray[np.uint64]
) -> NDArray[np.bool_]:
    """Training documents up to each source's share of the mixture, chosen by the hash of their text: a smaller corpus is part of a larger one."""
    fits_T = np.ones_like(alive_T)
    train_T = alive_T & order.on("train")
    available = np.array(
        [order.count(train_T & (order.source_T == source)).bytes for source in range(len(spec.sources))]
    )
    weights = np.array([source.weight or size for source, size in zip(spec.sources, available, strict=True)], float)
    if not weights.any():
        return fits_T
    shares = weights / weights.sum()
    total = min([*(available / shares)[shares > 0], spec.train_bytes or np.inf])
    for source, share in enumerate(shares):
        mine = np.flatnonzero(train_T & (order.source_T == source))
        by_key = mine[np.argsort(key_T[mine], kind="stable")]
        # Half a byte of slack: shares are floats, and a source taken whole must come out whole.
        fits_T[by_key[np.cumsum(order.sizes_T[by_key]) > share * total + 0.5]] = False
    return fits_T


@contextmanager
def _all_signatures(workspace: Workspace, order: Order, near: NearDuplicates) -> Iterator[NDArray[np.uint32]]:
    """The signatures of all documents as one memory-mapped (T, H) array, so that they need not fit in memory."""
    path = workspace.folder / "signatures.all"
    with path.open("wb") as whole:
        for part in order.parts:
            with files_of(workspace, part.source, part.side).signatures.open("rb") as piece:
                shutil.copyfileobj(piece, whole)
    shape = (len(order.sizes_T), near.bands * near.rows)
    yield np.memmap(path, np.uint32, "r", shape=shape) if shape[0] else np.empty(shape, np.uint32)
    path.unlink()


def _examples(
    workspace: Workspace, order: Order, dropped_T: NDArray[np.bool_], label: str, first_T: NDArray[np.int64]
) -> tuple[Example, ...]:
    examples = []
    for row in np.flatnonzero(dropped_T)[:EXAMPLES].tolist():
        (id, text), (other, _) = _document(workspace, order, row), _document(workspace, order, int(first_T[row]))
        examples.append(Example(id=id, reason=f"{label} {other}", beginning=text[:BEGINNING]))
    return tuple(examples)


def _document(workspace: Workspace, order: Order, row: int) -> tuple[str, str]:
    """Id and text of one document, found by its place."""
    part = next(part for part in order.parts if part.first <= row < part.last)
    place = row - part.first
    for batch in read_batches(files_of(workspace, part.source, part.side).clean):
        if place < len(batch.ids):
            return batch.ids[place], batch.texts[place]
        place -= len(batch.ids)
    raise IndexError(f"no document {row}")
