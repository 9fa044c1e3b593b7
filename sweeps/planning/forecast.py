"""How long a plan takes: the driver's own schedule, simulated on the expected seconds of each run."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .plan import Plan

START_S = 5.0  # of a worker: spawning it, importing torch, its first optimizer step
COMPILE_S = 10.0  # first compilation of one width on one core
RELOAD_S = 4.0  # the same from the disk's cache, by another worker
RUN_S = 1.0  # of every run besides its steps: opening the corpus, checkpoints, its row

Width = tuple[int, int]  # d_model and heads: what compiled code depends on


@dataclass(frozen=True)
class Forecast:
    """Expected wall-clock seconds of the sweep, and what its slots do in them."""

    makespan_s: float
    busy_s: float  # summed over slots
    compile_s: float  # of these
    slots: int

    @property
    def slot_hours(self) -> float:
        """Hours for which the slots are held, idle ends included."""
        return self.makespan_s * self.slots / 3600


def forecast(plan: Plan, seconds: Mapping[str, float], slots: int, compiled: bool) -> Forecast:
    """Simulates the sweep; runs that have no `seconds` (by key) are done.

    Args:
        compiled: whether widths are compiled: once for good, then read from disk by the other workers.
    """
    lengths = (
        (sum(seconds[key] + RUN_S for key in trunk.keys if key in seconds), trunk.runs[0].model)
        for trunk in plan.trunks
    )
    return simulate(((s, (model.d_model, model.n_heads)) for s, model in lengths if s), slots, compiled)


def simulate(trunks: Iterable[tuple[float, Width]], slots: int, compiled: bool) -> Forecast:
    """Longest trunk first, each whole on the slot that is free first, as the driver does it: (seconds, width) of each."""
    waiting = sorted(trunks, reverse=True)
    free = [(START_S, slot) for slot in range(min(slots, len(waiting)))]
    known: list[set[Width]] = [set() for _ in free]
    on_disk, compile_s, makespan = set[Width](), 0.0, 0.0
    for length, width in waiting:
        at, slot = heapq.heappop(free)
        extra = 0.0
        if compiled and width not in known[slot]:
            extra = RELOAD_S if width in on_disk else COMPILE_S
        known[slot].add(width)
        on_disk.add(width)
        compile_s += extra
        makespan = max(makespan, at + extra + length)
        heapq.heappush(free, (at + extra + length, slot))
    return Forecast(makespan, sum(length for length, _ in waiting) + compile_s, compile_s, slots)
