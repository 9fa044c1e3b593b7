"""The order of jobs: longest trunk first, by D, a trunk shared with a slot that would be idle, and nothing twice or lost."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import pytest
from sixnd.sweeps.driver import run_sweep
from sixnd.sweeps.executors.interface import Job, Outcome, Places
from sixnd.sweeps.executors.local import LocalExecutor
from sixnd.sweeps.executors.worker import train_specs
from sixnd.sweeps.lanes import Lanes
from sixnd.sweeps.planning.plan import Plan, make_plan
from sixnd.train.corpus.store import Corpus

from tests.sweeps.sweep_child import small_sweep
from tests.sweeps.test_driver import rows


@pytest.fixture
def plan(corpus: Corpus) -> Plan:
    """2 shapes x 3 D x 2 seeds."""
    return make_plan(small_sweep(), corpus)


def lanes_of(plan: Plan, branched: set[str], most_stacked: int = 1, n_trunks: int | None = None) -> Lanes:
    """Lanes whose jobs have branched once their first key is in `branched`."""
    costs = {
        key: float(run.model.n_total) for trunk in plan.trunks for run, key in zip(trunk.runs, trunk.keys, strict=True)
    }
    return Lanes.of(plan.trunks[:n_trunks], frozenset(), most_stacked, costs, lambda job: job.keys[0] in branched)


def tokens(job: Job | None) -> int | None:
    return None if job is None else job.specs[0].tokens


def test_an_idle_slot_takes_over_a_trunk_once_its_run_has_branched(plan: Plan) -> None:
    branched = set[str]()
    lanes = lanes_of(plan, branched, n_trunks=1)
    first = lanes.take(0)
    assert first is not None and tokens(first) == 1600 and lanes.take(1) is None
    branched.add(first.keys[0])
    second = lanes.take(1)
    assert second is not None and tokens(second) == 3200
    assert lanes.take(2) is None, "the second has not branched yet, and the first is not the one to wait for"
    assert lanes.ended(0) is first and not lanes.waiting and lanes.take(0) is None
    assert lanes.ended(1) is second
    assert tokens(lanes.take(0)) == 6400 and not lanes.left()


def test_a_trunk_of_its_own_comes_before_a_shared_one(plan: Plan) -> None:
    branched = {key for trunk in plan.trunks for key in trunk.keys}
    lanes = lanes_of(plan, branched)
    taken = [lanes.take(slot) for slot in range(4)]
    assert len({job.specs[0].trunk_key for job in taken if job}) == 4
    assert {tokens(job) for job in taken} == {1600}
    assert tokens(lanes.take(4)) == 3200


def test_a_lost_run_comes_before_the_rest_or_alone_if_that_has_gone_on(plan: Plan) -> None:
    branched = set[str]()
    lanes = lanes_of(plan, branched, n_trunks=1)
    first = lanes.take(0)
    assert first is not None
    lanes.again(0)
    assert lanes.take(0) is first
    branched.add(first.keys[0])
    second = lanes.take(1)
    lanes.again(0)
    assert lanes.take(0) is first
    lanes.ended(1)
    assert second is not None and tokens(lanes.take(1)) == 6400
    lanes.ended(0)
    lanes.ended(1)
    assert not lanes.waiting and not lanes.left()


@pytest.mark.parametrize("most_stacked", [1, 2])
@pytest.mark.parametrize("seed", range(10))
def test_whatever_happens_every_run_ends_once(plan: Plan, seed: int, most_stacked: int) -> None:
    rng, branched, ended = random.Random(seed), set[str](), list[str]()
    lanes = lanes_of(plan, branched, most_stacked)
    for _ in range(1000):
        slot = rng.randrange(5)
        if slot not in lanes.on_slot:
            lanes.take(slot)
            continue
        job = lanes.on_slot[slot][1]
        match rng.choice(["branch", "branch", "end", "end", "again", "apart"]):
            case "branch":
                branched.update(job.keys)
            case "end":
                ended += lanes.ended(slot).keys
            case "again":
                lanes.again(slot)
            case "apart" if len(job.specs) > 1:
                lanes.apart(slot)
    assert sorted(ended) == sorted(run.key for run in plan.runs)
    assert not lanes.on_slot and not lanes.left()


class Late:
    """Two slots that train a job when they get it, and tell so one after the other: a trunk goes on before its run has ended."""

    most_stacked = 1

    def __init__(self, slots: list[int], places: Places) -> None:
        self.slots, self.places = slots, places
        self.outcomes: dict[int, Outcome] = {}

    def idle_slots(self) -> list[int]:
        return [slot for slot in (0, 1) if slot not in self.outcomes]

    def submit(self, slot: int, job: Job) -> None:
        self.slots.append(slot)
        self.outcomes[slot] = train_specs(job, self.places, lambda _: None, lambda: False)

    def has_branched(self, job: Job) -> bool:
        return self.places.holds_branch(job)

    def completed(self, _: float) -> list[tuple[int, Outcome]]:
        oldest = next(iter(self.outcomes))
        return [(oldest, self.outcomes.pop(oldest))]

    def ask_to_stop(self) -> None: ...

    def cancel(self) -> None: ...


def test_one_trunk_on_two_slots_has_the_rows_of_one_worker(corpus: Corpus, tmp_path: Path) -> None:
    sweep = small_sweep().model_copy(update={"shapes": [(2, 32)], "seeds": [0]})
    plan, slots = make_plan(sweep, corpus), list[int]()
    executors = {"one": partial(LocalExecutor, 1), "two": partial(LocalExecutor, 2), "late": partial(Late, slots)}
    for name, executor in executors.items():
        run_sweep(sweep, plan, tmp_path / name, corpus.path.parent, executor, {})
    assert len(rows(tmp_path / "one")) == 3 and slots == [0, 1, 0]
    assert rows(tmp_path / "two") == rows(tmp_path / "late") == rows(tmp_path / "one")
