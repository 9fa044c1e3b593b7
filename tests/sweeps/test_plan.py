"""Plans: trunks and branches, what they save, and cells that cannot be trained."""

from __future__ import annotations

import io
from typing import Literal

import pytest
from rich.console import Console
from sixnd.models.config import ModelConfig
from sixnd.sweeps.planning.forecast import forecast
from sixnd.sweeps.planning.packing import Packing, alike_in, packing, taking_turns
from sixnd.sweeps.planning.plan import Plan, make_plan, planned_row
from sixnd.sweeps.planning.table import Costed, plan_lines, plan_table
from sixnd.sweeps.show import bytes_in_words
from sixnd.sweeps.spec import RaySettings, SpecError, SweepSpec, TrainSettings
from sixnd.train.corpus.store import Corpus, unique_tokens
from sixnd.train.memory import training_bytes
from sixnd.train.speed import Probed

from tests.conftest import tiny_spec

SETTINGS = TrainSettings(context=16, batch_tokens=32, precision="bf16")


def sweep(**changes: object) -> SweepSpec:
    base = {
        "name": "t",
        "corpus": tiny_spec(),
        "tokens": [3200, 6400, 12_800],
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
    assert {run.schedule.warmup_tokens for run in plan.runs} == {160}


def test_growing_the_grid_keeps_the_keys(corpus: Corpus) -> None:
    before = {run.key for run in make_plan(sweep(), corpus).runs}
    after = {run.key for run in make_plan(sweep(tokens=[3200, 6400, 12_800, 15_360], seeds=[0, 1, 2]), corpus).runs}
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
        ({"tokens": [6400, 10_000_000]}, "D = 10,000,000 is beyond one epoch"),
        ({"tokens": [3199, 12_800]}, "D = 3,199 is 99 steps of train.batch_tokens = 32"),
        ({"tokens": [31, 3200]}, "D = 31 is less than one batch of 32"),
        ({"tokens": [], "tokens_per_parameter": [0.01]}, "D = 192 is 6 steps"),
        (
            {"train": TrainSettings(context=16, batch_tokens=65, precision="bf16")},
            "train.batch_tokens = 65 is not a multiple",
        ),
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
    most = unique_tokens(len(corpus.train), 16) // 32 * 32
    plan: Plan = make_plan(sweep(tokens=[most]), corpus)
    assert plan.runs[0].tokens == most


def probed(kind: Literal["cpu", "cuda"], gigabytes: float, slots: int) -> Probed:
    return Probed(device="made-up", kind=kind, precision="bf16", memory_bytes=int(gigabytes * 1e9), slots=slots, compiled=True, models=(), tokens_per_s=())  # fmt: skip


def test_small_runs_share_a_gpu_as_its_memory_allows() -> None:
    small, large = (ModelConfig.from_shape(layers, width, 1024, 256) for layers, width in ((2, 32), (24, 1024)))
    assert packing(probed("cpu", 24, 2), {small}, 2048, "bf16", None, alike=9) == Packing(2)
    assert packing(probed("cuda", 80, 8), {small}, 2048, "bf16", None, alike=9) == Packing(32, 8)
    assert packing(probed("cuda", 80, 8), {small}, 2048, "bf16", None, alike=2) == Packing(32, 2)
    assert packing(probed("cuda", 80, 8), {small}, 2048, "bf16", 8, alike=1) == Packing(8, 1)
    tight = packing(probed("cuda", 24, 1), {small, large}, 2048, "bf16", None, alike=9)
    assert tight.most_stacked is not None and 1 < tight.most_stacked < 8 and tight.slots == 1
    assert training_bytes(large, 2048, "cuda", "bf16", tight.most_stacked) <= 0.9 * 24e9
    assert training_bytes(large, 2048, "cuda", "bf16", tight.most_stacked + 1) > 0.9 * 24e9
    assert packing(probed("cuda", 24, 1), {small, large}, 2048, "bf16", None, alike=1).slots > 1
    assert packing(probed("cuda", 1, 1), {large}, 2048, "bf16", None, alike=9) == Packing(1, 1)


def test_runs_are_stacked_where_each_has_a_gpu() -> None:
    three = sweep(seeds=[0, 1, 2])
    on_ray = [
        three.model_copy(update={"executor": "ray", "ray": RaySettings(gpus_per_run=gpus, store=store)})
        for gpus, store in ((1.0, None), (1.0, "file:///x"), (0.5, None), (0.0, None))
    ]
    assert alike_in(three) == 3 and [alike_in(each) for each in on_ray] == [3, 3, 1, 1]
    assert alike_in(sweep(seeds=[0, 1, 2], train=SETTINGS.model_copy(update={"optimizer": "muon"}))) == 1


def test_programs_that_share_a_gpu_take_turns() -> None:
    """The hours count as many slots as GPUs; on a cluster, each run's share of one."""
    eight = probed("cuda", 80, 8).model_copy(update={"gpus": 2})
    assert taking_turns(eight).slots == 2
    assert [taking_turns(eight, share).slots for share in (0.0, 1.0, 0.25, 0.1)] == [8, 8, 2, 1]
    assert taking_turns(eight.model_copy(update={"slots": 1})).slots == 1
    assert taking_turns(probed("cpu", 24, 8)).slots == 8


def test_the_lines_of_a_gpus_plan_read_well(corpus: Corpus) -> None:
    """Sizes in GB, and one D of a model is no range of D."""
    plan = make_plan(sweep(seeds=list(range(50)), tokens=[3200]), corpus)
    seconds = dict.fromkeys((run.key for run in plan.runs), 3600.0)
    costed = Costed(plan, seconds, forecast(plan, seconds, 1, compiled=False), "cuda", 10)
    lines = plan_lines(costed, "a card")
    assert "on 1 slot (100 slot-hours" in lines[1] and lines[2].startswith("memory 601MB for the largest run")
    assert [bytes_in_words(n) for n in (21.9e9, 3.98e11, 385e6, 9_800)] == ["21.9GB", "398GB", "385MB", "9.8kB"]
    (page := Console(width=200, file=io.StringIO())).print(plan_table(costed))
    text = page.file.getvalue()
    assert " 3.2k " in text and ".." not in text
