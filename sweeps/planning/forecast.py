"""How long a plan takes: the driver's own schedule, simulated on the expected seconds of each run."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ...models.config import ModelConfig
from .plan import Plan, Trunk

START_S = 5.0  # of a worker: spawning it, importing torch, its first optimizer step
COMPILE_S = 10.0  # first compilation of one width on one core
RELOAD_S = 4.0  # the same from the disk's cache, by another worker
RUN_S = 1.0  # of every run besides its steps: opening the corpus, checkpoints, its row

Width = tuple[int, int]  # d_model and heads: what compiled code depends on


@dataclass
class Line:
    """What is left of a trunk, or of several that are stacked: each run's stretch of trunk and the seconds after it, by D."""

    width: Width
    runs: list[tuple[float, float]]
    branched_at: float = 0.0  # when the run that is furthest along leaves the trunk
    slot: int | None = None  # which trains that run

    @property
    def seconds(self) -> float:
        return sum(stretch + rest for stretch, rest in self.runs)


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


def forecast(plan: Plan, seconds: Mapping[str, float], slots: int, compiled: bool, most_stacked: int = 1) -> Forecast:
    """Simulates the sweep; runs that have no `seconds` (by key) are done.

    Args:
        seconds: of a run by itself, or, where runs are stacked, its share of their time.
        compiled: whether widths are compiled: once for good, then read from disk by the other workers.
        most_stacked: trunks of one model and equal D that one slot trains together.
    """
    alike: dict[tuple[ModelConfig, tuple[int, ...]], list[Line]] = {}
    for trunk in plan.trunks:
        line = line_of(trunk, seconds)
        if line.runs:
            left = tuple(run.tokens for run, key in zip(trunk.runs, trunk.keys, strict=True) if key in seconds)
            alike.setdefault((trunk.runs[0].model, left), []).append(line)
    stacks = [
        lines[first : first + most_stacked] for lines in alike.values() for first in range(0, len(lines), most_stacked)
    ]
    return simulate((_together(stack) for stack in stacks), slots, compiled)


def line_of(trunk: Trunk, seconds: Mapping[str, float]) -> Line:
    """Its cooldown's share of a run's seconds is that of its tokens, evaluation included."""
    model, position, runs = trunk.runs[0].model, 0, []
    for run, key in zip(trunk.runs, trunk.keys, strict=True):
        branch = run.branch_step * run.batch_tokens
        if key in seconds:
            stretch = seconds[key] * (branch - position) / (run.tokens - position)
            runs.append((stretch, seconds[key] - stretch + RUN_S))
        position = branch
    return Line((model.d_model, model.n_heads), runs)


def _together(stack: list[Line]) -> Line:
    runs = zip(*(line.runs for line in stack), strict=True)
    return Line(stack[0].width, [(sum(s for s, _ in each), sum(r for _, r in each)) for each in runs])


def simulate(lines: Iterable[Line], slots: int, compiled: bool) -> Forecast:
    """As the driver does it: longest first on the slot that is free first, which keeps it run by run.

    A slot for which none waits goes on with one whose foremost run has left the trunk and cools down elsewhere.
    """
    waiting = sorted(lines, key=lambda line: line.seconds)
    trained_s, n_jobs = sum(line.seconds for line in waiting), sum(len(line.runs) for line in waiting)
    free = [(START_S, slot) for slot in range(min(slots, n_jobs))]
    on_slot: dict[int, Line] = {}
    known: list[set[Width]] = [set() for _ in free]
    on_disk, compile_s, makespan = set[Width](), 0.0, 0.0
    while free:
        at, slot = heapq.heappop(free)
        line = on_slot.get(slot)
        if line is None or line.slot != slot or not line.runs:
            going = [other for other in on_slot.values() if other.runs]
            if waiting:
                line = waiting.pop()
            elif not going:
                continue
            else:
                line = min(going, key=lambda other: (max(at, other.branched_at), -other.seconds))
                if line.branched_at > at:
                    heapq.heappush(free, (line.branched_at, slot))
                    continue
        extra = 0.0
        if compiled and line.width not in known[slot]:
            extra = RELOAD_S if line.width in on_disk else COMPILE_S
        known[slot].add(line.width)
        on_disk.add(line.width)
        compile_s += extra
        stretch, rest = line.runs.pop(0)
        line.slot, line.branched_at = slot, at + extra + stretch
        on_slot[slot] = line
        makespan = max(makespan, line.branched_at + rest)
        heapq.heappush(free, (line.branched_at + rest, slot))
    return Forecast(makespan, trained_s + compile_s, compile_s, slots)
