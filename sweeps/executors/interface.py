"""What the driver asks of whatever trains its runs: slots that take one job each, and the outcomes that come back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field

from ...train.record import CurvePoint, RunRecord
from ...train.spec import RunSpec, Stack, branch_file


@dataclass(frozen=True)
class Places:
    """Folders that a worker reads and writes."""

    corpora: Path
    checkpoints: Path
    live: Path  # progress of running jobs, and the request to stop
    documents: Path  # losses of the held-out documents

    def holds_branch(self, job: Job) -> bool:
        """Whether the state in which a job leaves its trunk is there."""
        return (self.checkpoints / branch_file(job.named)).exists()


class Job(BaseModel):
    """What one slot trains at once: one run, or several of one shape and D as one stacked program."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    specs: tuple[RunSpec, ...] = Field(min_length=1)

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(spec.key for spec in self.specs)

    @property
    def named(self) -> RunSpec | Stack:
        """Under whose name its checkpoints go."""
        return self.specs[0] if len(self.specs) == 1 else Stack(self.specs)


class Outcome(BaseModel):
    """How a job ended: with the record of every run, or with an error, or stopped because it was asked to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    records: tuple[RunRecord, ...] = ()
    error: str | None = None
    try_again: bool = False  # the worker was lost, not the run: another try may do
    stopped: bool = False  # as asked, with a checkpoint of where it stood
    curves: dict[str, tuple[CurvePoint, ...]] = {}  # so far, of a job that was stopped, by run
    disk_full: str | None = None  # why no other run on that disk could end well either


class Executor(Protocol):
    """Trains jobs somewhere. The driver alone decides what is tried again."""

    @property
    def most_stacked(self) -> int:
        """How many runs of one shape a slot trains at once as one program; 1 where that gains nothing."""

    def idle_slots(self) -> list[int]:
        """Slots that take a job now; they may come and go as nodes do."""

    def submit(self, slot: int, job: Job) -> None:
        """Hands a job to an idle slot."""

    def has_branched(self, job: Job) -> bool:
        """Whether another slot can go on with a job's trunk from where the job leaves it."""

    def completed(self, timeout: float) -> list[tuple[int, Outcome]]:
        """(slot, outcome) of the jobs that ended, after at most `timeout` seconds."""

    def ask_to_stop(self) -> None:
        """Asks every running job to finish its step, save a checkpoint and end as stopped."""

    def cancel(self) -> None:
        """Ends every worker now; what they had not returned is not done."""
