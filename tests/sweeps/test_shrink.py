"""Budgets: never more than allowed, trunks kept whole, and the forecast that hours are counted by."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from sixnd.models.config import ModelConfig
from sixnd.models.flops import training_flops
from sixnd.sweeps.lanes import Lanes
from sixnd.sweeps.planning.forecast import COMPILE_S, RELOAD_S, RUN_S, START_S, Line, Width, forecast, line_of, simulate
from sixnd.sweeps.planning.plan import Plan
from sixnd.sweeps.planning.shrink import Purse, shrink
from sixnd.sweeps.planning.table import left_out
from sixnd.sweeps.planning.worth import Guess, guess_of, worth_of
from sixnd.sweeps.spec import Budget, SpecError
from sixnd.train.speed import speeds_of

from tests.sweeps.test_grid import VOCAB, planned, sweep

SHAPES = [[2, 32], [2, 48], [2, 64], [2, 96], [4, 96]]


def grid(**changes: Any) -> Plan:
    return planned(sweep(**{"shapes": SHAPES, "tokens": [500_000, 1e6, 2e6, 4e6]} | changes))


def purse(plan: Plan, budget: Budget, slots: int = 2) -> Purse:
    speeds = {run.model: 2e10 / training_flops(run.model).total for run in plan.runs}
    return Purse(budget, speeds, slots, compiled=True)


@pytest.mark.parametrize("case", range(20))
def test_a_shrunken_grid_is_within_its_budget_and_keeps_its_trunks(case: int) -> None:
    rng = random.Random(case)
    shapes = rng.sample([*SHAPES, [3, 64], [4, 128]], rng.randint(4, 7))
    tokens = sorted(rng.sample([400_000, 800_000, 1_600_000, 3_200_000, 6_400_000, 9_000_000], rng.randint(4, 6)))
    schedule = rng.choice(["power", "cosine"])
    plan = grid(shapes=shapes, tokens=tokens, seeds=list(range(rng.randint(1, 3))), train={"schedule": schedule})
    share, slots = rng.uniform(0.35, 0.9), rng.randint(1, 4)
    whole = purse(plan, Budget(), slots).forecast(plan).makespan_s / 3600
    budget = rng.choice([Budget(flops=share * plan.trained_flops), Budget(hours=share * whole)])
    allowed = purse(plan, budget, slots)
    kept = plan.only(shrink("t", plan, allowed, Guess()))
    assert allowed.allows(kept) and len(kept.runs) < len(plan.runs)
    assert len({run.model for run in kept.runs}) >= 3 and len({run.tokens for run in kept.runs}) >= 3
    assert {run.key for run in kept.runs} < {run.key for run in plan.runs}
    cells: dict[tuple[ModelConfig, int], set[int]] = {}
    for run in kept.runs:
        cells.setdefault((run.model, run.tokens), set()).add(run.seed)
    assert len({frozenset(seeds) for seeds in cells.values()}) == 1, "all seeds of a cell, or none"
    before, after = worth_of(plan, Guess()), worth_of(kept, Guess())
    assert before is not None and after is not None
    assert before.alpha < after.alpha and before.beta < after.beta
    assert sum(trunk.trained_tokens()[trunk.runs[-1].key] for trunk in kept.trunks) > 0
    assert len(left_out(plan, kept)) > 1


def test_what_fits_is_left_alone() -> None:
    plan = grid()
    keys = shrink("t", plan, purse(plan, Budget(flops=plan.trained_flops)), Guess())
    assert keys == {run.key for run in plan.runs}
    assert left_out(plan, plan.only(keys)) == []


def test_cells_are_chosen_better_than_at_random() -> None:
    plan = grid()
    budget = Budget(flops=0.5 * plan.trained_flops)
    allowed = purse(plan, budget)

    def volume(kept: Plan) -> float:
        found = worth_of(kept, Guess())
        return np.inf if found is None else found.alpha * found.beta

    chosen = volume(plan.only(shrink("t", plan, allowed, Guess())))
    rng, tried = random.Random(0), []
    keys = [run.key for run in plan.runs]
    while len(tried) < 40:
        kept = plan.only(frozenset(rng.sample(keys, 14)))
        if allowed.allows(kept):
            tried.append(volume(kept))
    assert chosen < sorted(tried)[4]


def test_a_budget_that_no_grid_fits_is_refused_by_name() -> None:
    plan = grid()
    for budget in (Budget(flops=1e9), Budget(hours=1e-3)):
        with pytest.raises(SpecError, match=r"t: budget: no grid of at least 3 N and 3 D fits.* h and .* FLOPs"):
            shrink("t", plan, purse(plan, budget), Guess())


def test_too_few_rows_tell_nothing() -> None:
    assert worth_of(grid(shapes=[[2, 32], [2, 64]]), Guess()) is None
    with pytest.raises(SpecError, match=r"--noise -1"):
        guess_of(None, -1.0)


def test_more_noise_means_proportionally_larger_errors() -> None:
    small, large = worth_of(grid(), Guess(noise=0.005)), worth_of(grid(), Guess(noise=0.01))
    assert small is not None and large is not None
    assert large.alpha / small.alpha == pytest.approx(2, rel=0.15)


def of_one_run(seconds: float, width: Width) -> Line:
    return Line(width, [(0.8 * seconds, 0.2 * seconds)])


def test_the_schedule_is_the_longest_first_on_whichever_slot_is_free() -> None:
    a, b = (32, 1), (64, 2)
    one = simulate([of_one_run(100.0, a)], 2, compiled=False)
    assert one.makespan_s == START_S + 100 and one.compile_s == 0
    three = simulate([of_one_run(50.0, a), of_one_run(100.0, a), of_one_run(60.0, b)], 2, compiled=True)
    # Slot 0: 100 of a; slot 1: 60 of b, then 50 of a, read from the disk.
    assert three.makespan_s == START_S + COMPILE_S + 60 + RELOAD_S + 50
    assert three.compile_s == 2 * COMPILE_S + RELOAD_S


def test_a_slot_with_nothing_to_do_takes_a_trunk_over_where_a_run_has_left_it() -> None:
    def line() -> Line:
        return Line((32, 1), [(10.0, 4.0), (6.0, 4.0), (8.0, 4.0)])

    assert simulate([line()], 1, compiled=False).makespan_s == START_S + 14 + 10 + 12
    two = simulate([line()], 2, compiled=False)  # the trunk never waits: its stretches, and the last cooldown
    assert two.makespan_s == START_S + 10 + 6 + 8 + 4 and two.busy_s == 36
    assert simulate([line()], 3, compiled=False).makespan_s == two.makespan_s
    read = simulate([line()], 2, compiled=True)
    assert read.makespan_s == two.makespan_s + COMPILE_S + RELOAD_S and read.compile_s == COMPILE_S + RELOAD_S
    other = Line((32, 1), [(0.0, 20.0)])  # its slot is idle from then on, in time for the second branch point alone
    assert simulate([line(), other], 2, compiled=False).makespan_s == START_S + 14 + 6 + 8 + 4


def driven(plan: Plan, seconds: Mapping[str, float], slots: int) -> float:
    """When the driver's own lanes have ended all runs, on a clock that jumps from event to event."""
    now, branched = START_S, dict[str, float]()
    costs = {key: value + RUN_S for key, value in seconds.items()}
    lanes = Lanes.of(plan.trunks, frozenset(), 1, costs, lambda job: branched[job.keys[0]] <= now)
    lanes.compiled_widths = {run.model.d_model for run in plan.runs}
    parts = {
        key: part for trunk in plan.trunks for key, part in zip(trunk.keys, line_of(trunk, seconds).runs, strict=True)
    }
    ends: dict[int, float] = {}
    while True:
        for slot in set(range(slots)) - ends.keys():
            if job := lanes.take(slot):
                (key,) = job.keys
                branched[key] = now + parts[key][0]
                ends[slot] = branched[key] + parts[key][1]
        if not ends:
            return now
        now = min([*ends.values(), *(at for at in branched.values() if at > now)])
        for slot in [slot for slot, end in ends.items() if end <= now]:
            lanes.ended(slot)
            del ends[slot]


@pytest.mark.parametrize("case", range(20))
def test_the_simulation_is_the_drivers_schedule(case: int) -> None:
    rng = random.Random(case)
    shapes, tokens = rng.sample(SHAPES, rng.randint(1, 5)), [500_000, 1e6, 2e6, 4e6][: rng.randint(1, 4)]
    plan = grid(shapes=shapes, tokens=tokens, seeds=list(range(rng.randint(1, 3))))
    seconds, slots = {run.key: rng.uniform(1, 60) for run in plan.runs}, rng.randint(1, 6)
    assert forecast(plan, seconds, slots, compiled=False).makespan_s == pytest.approx(driven(plan, seconds, slots))


def test_the_seconds_of_a_run_are_its_stretch_of_trunk_and_its_cooldown() -> None:
    plan = grid(shapes=[[2, 32]])
    seconds = {run.key: 10.0 for run in plan.runs}
    assert forecast(plan, seconds, 1, compiled=False).makespan_s == pytest.approx(START_S + 4 * (10 + RUN_S))
    (trunk,) = plan.trunks
    first, second, *_ = trunk.runs
    line = line_of(trunk, seconds)
    branch = first.branch_step * first.batch_tokens
    assert line.runs[0][0] == pytest.approx(10 * branch / first.tokens) and sum(line.runs[0]) == 10 + RUN_S
    left = dict.fromkeys(trunk.keys[1:], 10.0)  # the first is done, and left its branch point
    stretch = second.branch_step * second.batch_tokens - branch
    assert line_of(trunk, left).runs[0][0] == pytest.approx(10 * stretch / (second.tokens - branch))
    assert forecast(plan, {}, 8, compiled=False).makespan_s == 0


def test_stacked_trunks_are_on_one_slot() -> None:
    plan = grid(shapes=[[2, 32], [2, 64]], tokens=[1e6], seeds=[0, 1, 2])
    seconds = {run.key: 10.0 for run in plan.runs}
    apart, stacked = (forecast(plan, seconds, 6, compiled=False, most_stacked=n) for n in (1, 3))
    assert apart.makespan_s == pytest.approx(START_S + 10 + RUN_S)
    assert stacked.makespan_s == pytest.approx(START_S + 3 * (10 + RUN_S)) and stacked.busy_s == apart.busy_s
    two = forecast(plan, seconds, 6, compiled=False, most_stacked=2)  # of each shape, two together and one alone
    assert two.makespan_s == pytest.approx(START_S + 2 * (10 + RUN_S))


def test_speeds_between_and_beyond_what_was_measured() -> None:
    small, middle, large = (ModelConfig.from_shape(2, width, VOCAB, 256) for width in (32, 64, 128))
    flops = {model: training_flops(model).total for model in (small, middle, large)}
    speeds = speeds_of([small, middle, large], {small: 1e9 / flops[small], large: 4e9 / flops[large]})
    assert speeds[small] == 1e9 / flops[small]
    assert 1e9 < speeds[middle] * flops[middle] < 4e9
    beyond = ModelConfig.from_shape(8, 256, VOCAB, 256)
    assert speeds_of([beyond], {large: 100.0})[beyond] == pytest.approx(
        100 * flops[large] / training_flops(beyond).total
    )
