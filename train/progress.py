"""Progress of one run: where it is, how fast, and who is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tqdm import tqdm


@dataclass(frozen=True)
class Progress:
    """One moment of a run."""

    tokens: int  # trained so far, those of a resumed trunk included
    total: int  # D
    loss: float  # nats per token of the latest batch
    tokens_per_s: float  # since the run was started or resumed


Listener = Callable[[Progress], None]


class TqdmListener:
    """A progress bar with loss, tokens per second and time left."""

    def __init__(self, description: str) -> None:
        self.bar = tqdm(desc=description, unit="tok", unit_scale=True, smoothing=0.1)

    def __call__(self, progress: Progress) -> None:
        if self.bar.total != progress.total:
            self.bar.reset(progress.total)
            self.bar.initial = progress.tokens
        self.bar.set_postfix(loss=f"{progress.loss:.3f}", refresh=False)
        self.bar.update(progress.tokens - self.bar.n)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()


class StepClock:
    """Tokens per second of the steps, the first of a process (which compile) left out."""

    WARM_STEPS = 3

    def __init__(self) -> None:
        self.steps, self.tokens, self.start, self.stop = 0, 0, 0.0, 0.0

    def tick(self, tokens: int) -> None:
        self.steps += 1
        self.stop = time.perf_counter()
        if self.steps <= self.WARM_STEPS:
            self.start = self.stop
        else:
            self.tokens += tokens

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves out what is no training step."""
        begin = time.perf_counter()
        yield
        pause = time.perf_counter() - begin
        self.start, self.stop = self.start + pause, self.stop + pause

    @property
    def tokens_per_s(self) -> float | None:
        return self.tokens / (self.stop - self.start) if self.tokens else None
