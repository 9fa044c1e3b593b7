"""The order of a sweep's work: trunks, several of one shape stacked where the executor can, each a queue of jobs by D."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..train.spec import RunSpec
from .executors.interface import Job
from .planning.plan import Trunk


@dataclass
class Lane:
    """Jobs that must follow each other, because each starts from the checkpoint that the last one left."""

    trunks: tuple[str, ...]
    jobs: list[Job]  # by D

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
    on_slot: dict[int, tuple[Lane, Job]] = field(default_factory=dict)
    last: dict[int, Lane] = field(default_factory=dict)  # on each slot: its next job is best trained there
    compiled_widths: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, trunks: Iterable[Trunk], done: frozenset[str], most_stacked: int, costs: Mapping[str, float]) -> Lanes:
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
        return cls(waiting, costs)

    def take(self, slot: int) -> Job | None:
        """The slot's own lane while it has jobs, else the longest one that waits; None where none does."""
        if not self.waiting:
            return None
        own = self.last.get(slot)
        lane = own if own in self.waiting else max(self.waiting, key=self._preference)
        assert lane is not None
        self.waiting.remove(lane)
        job = lane.jobs.pop(0)
        self.on_slot[slot], self.last[slot] = (lane, job), lane
        return job

    def _preference(self, lane: Lane) -> tuple[bool, float]:
        """Longest first, but not of a width that another slot is compiling now: it would be compiled twice."""
        compiling = {job.specs[0].model.d_model for _, job in self.on_slot.values()} - self.compiled_widths
        return lane.d_model not in compiling, lane.seconds(self.costs)

    def ended(self, slot: int) -> Job:
        """The slot's job, which is over; the rest of its lane waits again."""
        lane, job = self.on_slot.pop(slot)
        self.compiled_widths.add(job.specs[0].model.d_model)
        if lane.jobs:
            self.waiting.append(lane)
        return job

    def again(self, slot: int) -> Job:
        """The slot's job, which is to be tried once more before the rest of its lane."""
        lane, job = self.on_slot.pop(slot)
        lane.jobs.insert(0, job)
        self.waiting.append(lane)
        return job

    def apart(self, slot: int) -> Job:
        """The slot's stacked job, whose runs are to be tried once more one by one, each in a lane of its own."""
        lane, job = self.on_slot.pop(slot)
        rest = zip(*(later.specs for later in (job, *lane.jobs)), strict=True)
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
