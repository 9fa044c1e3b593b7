"""Plans: trunks and branches, what they save, and cells that cannot be trained."""

from __future__ import annotations

import pytest
from sixnd.sweeps.planning.plan import Plan, make_plan, planned_row
from sixnd.sweeps.spec import SpecError, SweepSpec, TrainSettings
from sixnd.train.corpus.store import Corpus, unique_tokens

from tests.conftest import tiny_spec

SETTINGS = TrainSettings(context=16, batch_tokens=64)


def sweep(**changes: object) -> SweepSpec:
    base = {
        "name": "t",
        "corpus": tiny_spec(),
        "tokens": [640, 1280, 2560],
        "shapes": [[1, 32], [2, 32]],
        "train": SETTINGS,
        "seeds": [0, 1],
    }
    return SweepSpec.model_validate(base | changes)


def test_a_trunk_serves_every_d_of_a_row(corpus: Corpus) -> None:
    plan = make_plan(sweep(), corpus)
    assert len(plan.runs) == 2 * 2 * 3 and len(plan.trunks) == 4
    assert len({run.key for run in plan.runs}) == 12
    for trunk in plan.trunks:
        assert len({run.trunk_key for run in trunk.runs}) == 1
        tokens = trunk.trained_tokens()
        branch = [run.branch_step * run.batch_tokens for run in trunk.runs]
        assert sum(tokens.values()) == branch[-1] + sum(r.tokens - b for r, b in zip(trunk.runs, branch, strict=True))
    assert 1.3 < plan.trunk_saving < 2


def test_what_is_done_costs_nothing(corpus: Corpus) -> None:
    plan = make_plan(sweep(), corpus)
    done = frozenset(run.key for run in plan.trunks[0].runs[:2])
    speeds = {run.model: 1000.0 for run in plan.runs}
    assert set(plan.seconds(speeds, done)) == {run.key for run in plan.runs} - done


def test_warmup_is_short(corpus: Corpus) -> None:
    plan = make_plan(sweep(), corpus)
    assert {run.schedule.warmup_tokens for run in plan.runs} == {32}


def test_growing_the_grid_keeps_the_keys(corpus: Corpus) -> None:
    before = {run.key for run in make_plan(sweep(), corpus).runs}
    after = {run.key for run in make_plan(sweep(tokens=[640, 1280, 2560, 5120], seeds=[0, 1, 2]), corpus).runs}
    assert before < after


def test_targets_become_shapes(corpus: Corpus) -> None:
    plan = make_plan(sweep(shapes=[], params=["25k", "100k"]), corpus)
    assert [t.runs[0].model.n_non_embedding for t in plan.trunks[::2]] == pytest.approx([25_000, 100_000], rel=0.15)


def test_rows_know_their_counts(corpus: Corpus) -> None:
    run = make_plan(sweep(), corpus).runs[0]
    row = planned_row(run)
    assert row["C_6nd"] == 6 * run.model.n_total * run.tokens
    assert row["state"] == "planned"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tokens": [640, 10_000_000]}, "D = 10,000,000 is beyond one epoch"),
        ({"tokens": [32]}, "D = 32 is less than one batch"),
        ({"train": TrainSettings(context=16, batch_tokens=65)}, "train.batch_tokens = 65 is not a multiple"),
        ({"shapes": [[1, 33]]}, "shapes: "),
        ({"shapes": [], "params": [10]}, "outside the ladder"),
        ({"shapes": [], "params": [25_000, 25_001]}, "fall on one shape"),
    ],
)
def test_what_cannot_be_trained_is_refused_by_name(corpus: Corpus, changes: dict[str, object], says: str) -> None:
    with pytest.raises(SpecError) as error:
        make_plan(sweep(**changes), corpus)
    assert says in str(error.value)


def test_one_epoch_exactly_is_allowed(corpus: Corpus) -> None:
    most = unique_tokens(len(corpus.train), 16) // 64 * 64
    plan: Plan = make_plan(sweep(tokens=[most]), corpus)
    assert plan.runs[0].tokens == most
