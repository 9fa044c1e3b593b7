"""The order of a sweep's work: trunks, several of one shape stacked where the executor can, each a queue of jobs by D.

A slot goes on with the trunk it has. One that would be idle takes the next job of a trunk whose foremost run has left it: that
run cools down on its slot while the trunk goes on elsewhere, from the branch point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..train.spec import RunSpec
from .executors.interface import Job
from .planning.plan import Trunk


@dataclass
class Lane:
    """Jobs of which each starts where the one before it leaves the trunk."""

    trunks: tuple[str, ...]
    jobs: list[Job]  # that no slot has, by D
    foremost: Job | None = None  # of those on a slot, the one furthest along the trunk

    @property
    def d_model(self) -> int:
        return self.jobs[0].specs[0].model.d_model

    def seconds(self, costs: Mapping[str, float]) -> float:
        return sum(costs.get(key, 0.0) for job in self.jobs for key in job.keys)


@dataclass
class Lanes:
    """The lanes of a sweep, and which of them is on which slot."""

    waiting: list[Lane]
    costs: Mapping[str, float]  # expected seconds by run
    has_branched: Callable[[Job], bool]  # whether the branch point of a job can be started from
    on_slot: dict[int, tuple[Lane, Job]] = field(default_factory=dict)
    last: dict[int, Lane] = field(default_factory=dict)  # on each slot: its next job is best trained there
    compiled_widths: set[int] = field(default_factory=set)

    @classmethod
    def of(
        cls,
        trunks: Iterable[Trunk],
        done: frozenset[str],
        most_stacked: int,
        costs: Mapping[str, float],
        has_branched: Callable[[Job], bool],
    ) -> Lanes:
        """What is left of the trunks, at most `most_stacked` in a lane."""
        alike: dict[str, list[list[RunSpec]]] = {}
        for trunk in trunks:
            if left := [run for run in trunk.runs if run.key not in done]:
                alike.setdefault(_stack_name(left), []).append(left)
        waiting = []
        for group in alike.values():
            for first in range(0, len(group), most_stacked):
                stack = group[first : first + most_stacked]
                jobs = [Job(specs=specs) for specs in zip(*stack, strict=True)]
                waiting.append(Lane(tuple(left[0].trunk_key for left in stack), jobs))
        return cls(waiting, costs, has_branched)

    def take(self, slot: int) -> Job | None:
        """Of the slot's own lane while that waits, else of the longest one that does, else of one that can be shared."""
        own, lane = self.last.get(slot), None
        if self.waiting:
            lane = own if own in self.waiting else max(self.waiting, key=self._preference)
            self.waiting.remove(lane)
        elif shared := [lane for lane, job in self.on_slot.values() if self._can_be_shared(lane, job)]:
            lane = max(shared, key=self._preference)
        if lane is None:
            return None
        job = lane.foremost = lane.jobs.pop(0)
        self.on_slot[slot], self.last[slot] = (lane, job), lane
        return job

    def _can_be_shared(self, lane: Lane, job: Job) -> bool:
        return job is lane.foremost and bool(lane.jobs) and self.has_branched(job)

    def _preference(self, lane: Lane) -> tuple[bool, float]:
        """Longest first, but not of a width that another slot is compiling now: it would be compiled twice."""
        compiling = {job.specs[0].model.d_model for _, job in self.on_slot.values()} - self.compiled_widths
        return lane.d_model not in compiling, lane.seconds(self.costs)

    def ended(self, slot: int) -> Job:
        """The slot's job, which is over; the rest of its lane waits again, unless it has gone on elsewhere."""
        lane, job = self.on_slot.pop(slot)
        self.compiled_widths.add(job.specs[0].model.d_model)
        if job is lane.foremost:
            lane.foremost = None
            if lane.jobs:
                self.waiting.append(lane)
        return job

    def again(self, slot: int) -> Job:
        """The slot's job, which is to be tried once more: before the rest of its lane, or alone if that has gone on."""
        lane, job = self.on_slot.pop(slot)
        if job is lane.foremost:
            lane.foremost = None
            lane.jobs.insert(0, job)
            self.waiting.append(lane)
        else:
            self.waiting.append(Lane(lane.trunks, [job]))
        return job

    def apart(self, slot: int) -> Job:
        """The slot's stacked job, whose runs are to be tried once more one by one, each in a lane of its own."""
        lane, job = self.on_slot.pop(slot)
        later = lane.jobs if job is lane.foremost else []
        rest = zip(*(each.specs for each in (job, *later)), strict=True)
        for trunk, specs in zip(lane.trunks, rest, strict=True):
            self.waiting.append(Lane((trunk,), [Job(specs=(spec,)) for spec in specs]))
        return job

    def left(self) -> list[str]:
        """Keys of the runs that no slot has."""
        return [key for lane in self.waiting for job in lane.jobs for key in job.keys]


def _stack_name(left: Sequence[RunSpec]) -> str:
    """Equal for trunks whose runs left can be stacked: all but seed and AdamW's settings is the same."""
    runs = [run.model_dump_json(exclude={"seed", "optimizer"}) for run in left]
    return "\n".join([left[0].optimizer.name if left[0].optimizer.name == "adamw" else left[0].trunk_key, *runs])
