"""The driver with executors that train nothing: stacks, retries, a full disk, and slots that come and go."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from sixnd.sweeps.driver import SweepFailed, run_sweep
from sixnd.sweeps.executors.interface import Executor, Job, Outcome, Places
from sixnd.sweeps.executors.worker import StopFile, train_specs
from sixnd.sweeps.ledger.store import Ledger, open_ledger
from sixnd.sweeps.planning.plan import make_plan
from sixnd.train.corpus.store import Corpus
from sixnd.train.record import RunRecord
from sixnd.train.spec import RunSpec

from tests.sweeps.records import record_of
from tests.sweeps.sweep_child import small_sweep


def done(job: Job) -> Outcome:
    return Outcome(records=tuple(map(record_of, job.specs)))


class Scripted:
    """Ends every job at once as `answer` says."""

    def __init__(self, answer: Callable[[Job], Outcome], most_stacked: int, seen: list[Job], _: Places) -> None:
        self.answer, self.most_stacked, self.seen = answer, most_stacked, seen
        self.jobs: dict[int, Job] = {}
        self.asked_to_stop = False

    def idle_slots(self) -> list[int]:
        return [slot for slot in (0, 1) if slot not in self.jobs]

    def submit(self, slot: int, job: Job) -> None:
        self.seen.append(job)
        self.jobs[slot] = job

    def has_branched(self, _: Job) -> bool:
        return False

    def completed(self, _: float) -> list[tuple[int, Outcome]]:
        jobs, self.jobs = self.jobs, {}
        return [(slot, self.answer(job)) for slot, job in jobs.items()]

    def ask_to_stop(self) -> None:
        self.asked_to_stop = True

    def cancel(self) -> None: ...


def sweep(corpus: Corpus, out: Path, executor: Callable[[Places], Executor]) -> Ledger:
    """2 shapes x 3 D x 2 seeds."""
    run_sweep(small_sweep(), make_plan(small_sweep(), corpus), out, corpus.path.parent, executor, {})
    return open_ledger(out)


def test_trunks_of_one_shape_are_stacked_where_the_executor_stacks(corpus: Corpus, tmp_path: Path) -> None:
    seen: list[Job] = []
    ledger = sweep(corpus, tmp_path, partial(Scripted, done, 8, seen))
    assert ledger.by_state() == {"done": 12}
    assert [len(job.specs) for job in seen] == [2] * 6
    for job in seen:
        assert len({(spec.model, spec.tokens) for spec in job.specs}) == 1 and len({s.seed for s in job.specs}) == 2
    by_shape = [[job.specs[0].tokens for job in seen if job.specs[0].model.d_model == width] for width in (32, 48)]
    assert by_shape == [[1600, 3200, 6400]] * 2


def test_a_stack_that_fails_is_tried_run_by_run(corpus: Corpus, tmp_path: Path) -> None:
    seen: list[Job] = []

    def no_stacks(job: Job) -> Outcome:
        return done(job) if len(job.specs) == 1 else Outcome(error="OutOfMemoryError: no room for two")

    ledger = sweep(corpus, tmp_path, partial(Scripted, no_stacks, 8, seen))
    assert ledger.by_state() == {"done": 12}
    assert [len(job.specs) for job in seen].count(2) == 2, "once for each shape"
    assert {a["reason"] for a in ledger.attempts() if a["outcome"] == "lost"} == {"OutOfMemoryError: no room for two"}


def test_a_worker_that_is_always_lost_fails_its_run_alone(corpus: Corpus, tmp_path: Path) -> None:
    seen: list[Job] = []

    def some_lost(job: Job) -> Outcome:
        lost = job.specs[0].seed == 1 and job.specs[0].tokens == 1600
        return Outcome(error="worker ended with exit code -9", try_again=True) if lost else done(job)

    ledger = sweep(corpus, tmp_path, partial(Scripted, some_lost, 1, seen))
    assert ledger.by_state() == {"done": 10, "failed": 2}
    failed = [row for row in ledger.rows() if row["state"] == "failed"]
    assert {row["attempts"] for row in failed} == {3} and {row["error"] for row in failed} == {
        "worker ended with exit code -9"
    }


def test_a_full_disk_ends_the_sweep_in_one_line(corpus: Corpus, tmp_path: Path) -> None:
    seen: list[Job] = []

    def full(job: Job) -> Outcome:
        return done(job) if len(seen) <= 2 else Outcome(disk_full="/data/x: no space left on the disk")

    with pytest.raises(SweepFailed, match=r"/data/x: no space left on the disk; 2 of 12 runs finished .* safe"):
        sweep(corpus, tmp_path, partial(Scripted, full, 1, seen))
    assert open_ledger(tmp_path).by_state() == {"done": 2, "planned": 10}
    assert sweep(corpus, tmp_path, partial(Scripted, done, 1, seen)).by_state() == {"done": 12}


def test_a_worker_says_that_its_disk_is_full(
    run_spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object, **__: object) -> RunRecord:
        raise OSError(28, "No space left on device", str(tmp_path / "a.pt"))

    monkeypatch.setattr("sixnd.train.loop.train", no_room)
    places = Places(tmp_path, tmp_path, tmp_path, tmp_path)
    outcome = train_specs(Job(specs=(run_spec,)), places, lambda _: None, StopFile(tmp_path))
    assert outcome.disk_full == f"{tmp_path / 'a.pt'}: no space left on the disk" and not outcome.records


def test_a_job_that_is_asked_to_stop_before_it_begins_trains_nothing(run_spec: RunSpec, tmp_path: Path) -> None:
    (tmp_path / "stop").touch()
    places = Places(tmp_path, tmp_path, tmp_path, tmp_path)
    outcome = train_specs(Job(specs=(run_spec,)), places, lambda _: None, StopFile(tmp_path))
    assert outcome.stopped and not outcome.records
