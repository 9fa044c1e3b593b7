"""The ladder through the sweep's own driver: what it trains, extends and resumes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from sixnd.analysis.tuning.optima import Curve, Optimum
from sixnd.models.config import ModelConfig
from sixnd.sweeps.driver import Interrupted
from sixnd.sweeps.executors.interface import Job, Outcome, Places
from sixnd.sweeps.ledger.store import open_ledger
from sixnd.sweeps.planning.forecast import COMPILE_S
from sixnd.sweeps.planning.plan import make_plan
from sixnd.sweeps.spec import SweepSpec, TrainSettings
from sixnd.sweeps.status import LawSoFar, status_of
from sixnd.sweeps.tuning.design import _beyond
from sixnd.sweeps.tuning.rule_file import RuleFile, read_rule
from sixnd.sweeps.tuning.run import NotBracketed, Tuning, rule_of
from sixnd.train.corpus.store import Corpus
from sixnd.train.record import RunRecord
from sixnd.train.settings import peak_lr
from sixnd.train.spec import RunSpec
from sixnd.train.speed import Probed

from tests.conftest import tiny_spec
from tests.sweeps.records import record_of

CURVATURE = 0.05
Losses = Callable[[RunSpec], float | None]


def grid(**settings: object) -> SweepSpec:
    """Five models by four D."""
    fields: dict[str, object] = {
        "name": "t",
        "corpus": tiny_spec(),
        "tokens": [6400, 12_800, 25_600, 51_200],
        "shapes": [(2, 32), (2, 48), (2, 64), (2, 96), (4, 96)],
        "train": TrainSettings(context=16, batch_tokens=64, precision="bf16"),
    }
    return SweepSpec.model_validate(fields | settings)


def off_from(run: RunSpec, shift: float = 0.2) -> float:
    """Octaves that a run's learning rate is off: the optimum is 2^shift of the published one, and grows as D^0.25."""
    best = peak_lr(run.model.n_non_embedding) * 2**shift * (run.tokens / 6400) ** 0.25
    return math.log2(run.optimizer.lr / best)


def smooth(run: RunSpec) -> float:
    return 4.0 + CURVATURE * off_from(run) ** 2


class Scripted:
    """Trains nothing: each run ends with the loss that `losses` gives it, None for divergence; `most` jobs, then Ctrl-C."""

    most_stacked = 1

    def __init__(self, losses: Losses, most: float, seen: list[RunSpec], _: Places) -> None:
        self.losses, self.most, self.seen, self.jobs = losses, most, seen, list[Job]()

    def idle_slots(self) -> list[int]:
        return [] if self.jobs else [0]

    def submit(self, _: int, job: Job) -> None:
        if len(self.seen) >= self.most:
            raise KeyboardInterrupt
        self.seen += job.specs
        self.jobs.append(job)

    def has_branched(self, _: Job) -> bool:
        return False

    def completed(self, _: float) -> list[tuple[int, Outcome]]:
        jobs, self.jobs = self.jobs, []
        return [(0, Outcome(records=tuple(map(self.record, job.specs)))) for job in jobs]

    def record(self, run: RunSpec) -> RunRecord:
        loss = self.losses(run)
        if loss is None:
            return record_of(run, state="diverged", test_loss=None, error="diverged")
        return record_of(run, test_loss=loss)

    def ask_to_stop(self) -> None: ...

    def cancel(self) -> None: ...


def probe(models: set[ModelConfig], *_: int) -> Probed:
    """A machine of two cores and a compiler that trains every model at 10,000 tokens a second."""
    speeds = (1e4,) * len(models)
    return Probed(device="x", kind="cpu", precision="bf16", memory_bytes=10**12, slots=2, compiled=True, models=tuple(models), tokens_per_s=speeds)  # fmt: skip


def ladder(sweep: SweepSpec, corpus: Corpus, out: Path) -> Tuning:
    return Tuning.of(sweep, make_plan(sweep, corpus), corpus, out, corpus.path.parent, probe)


def tune(sweep: SweepSpec, corpus: Corpus, out: Path, losses: Losses = smooth, most: float = math.inf) -> tuple[RuleFile, list[RunSpec]]:  # fmt: skip
    """The rule, and the runs that were trained for it in this sitting."""
    seen: list[RunSpec] = []
    rule = ladder(sweep, corpus, out).train(partial(Scripted, losses, most, seen), Console(quiet=True))
    return rule, seen


# --- the ladder -------------------------------------------------------------------------------------------------------


def test_the_default_ladder_is_four_of_the_smaller_rows_at_two_of_the_smaller_d(
    tunable: Corpus, tmp_path: Path
) -> None:
    rule, seen = tune(grid(), tunable, tmp_path)
    assert {run.model.d_model for run in seen} == {32, 48, 64, 96} and {run.model.n_layers for run in seen} == {2}
    assert {run.tokens for run in seen} == {6400, 12_800}
    assert len(seen) == 4 * 2 * (5 + 2) and len({run.trunk_key for run in seen}) == 4 * (5 + 2)
    assert {run.held_out for run in seen} == {"validation"}
    for run in seen:
        factor = run.optimizer.lr / peak_lr(run.model.n_non_embedding)
        assert min(abs(factor - f) for f in (0.25, 0.5, 2**-0.5, 1, 2**0.5, 2, 4)) < 1e-9
    assert rule.lr.exponent("D") == pytest.approx(0.25, abs=1e-6)
    assert rule.lr.exponent("N") == pytest.approx(-0.2, abs=1e-6)
    assert rule.corpus == tunable.hash and len(rule.runs) == 56


def test_the_cost_is_that_of_what_is_left(tunable: Corpus, tmp_path: Path) -> None:
    before = ladder(grid(), tunable, tmp_path).cost()
    assert (before.n_left, before.forecast.slots) == (40, 2) and before.forecast.compile_s >= 4 * COMPILE_S
    lines = before.lines()
    assert "4 rungs" in lines[0] and "40 runs in 20 trunks, 40 to train" in lines[0] and "compilation" in lines[1]
    tune(grid(), tunable, tmp_path)
    after = ladder(grid(), tunable, tmp_path).cost()
    assert (after.n_left, after.forecast.makespan_s) == (0, 0.0) and "0 to train" in after.lines()[0]


def test_the_ladder_has_its_own_ledger_and_page(tunable: Corpus, tmp_path: Path) -> None:
    tune(grid(), tunable, tmp_path)
    rows = open_ledger(tmp_path / "tuning").rows()
    assert len(rows) == 56 and {json.loads(row["spec"])["held_out"] for row in rows} == {"validation"}
    assert not (tmp_path / "ledger.sqlite").exists()
    page = (tmp_path / "tuning" / "report.html").read_text()
    assert page.count('class="plot"') == 1 + 4 and "Tuning of t" in page
    assert "http" not in page[: page.index("<script>")].replace("http-equiv", "")
    assert read_rule(tmp_path / "tuning" / "rule.json").lr.fitted == ("N", "D")
    status = status_of(tmp_path / "tuning")
    (no_law,) = LawSoFar(tmp_path / "tuning").update(status)
    assert status.states == {"done": 56} and no_law.startswith("no law: cells were trained at several learning rates")


def test_a_second_tune_trains_nothing_and_a_stopped_one_goes_on(tunable: Corpus, tmp_path: Path) -> None:
    whole, _ = tune(grid(), tunable, tmp_path / "whole")
    with pytest.raises(Interrupted):
        tune(grid(), tunable, tmp_path / "cut", most=17)
    assert not (tmp_path / "cut" / "tuning" / "rule.json").exists()
    resumed, seen = tune(grid(), tunable, tmp_path / "cut")
    assert len(seen) == 56 - 17 and resumed == whole
    again, none = tune(grid(), tunable, tmp_path / "cut")
    assert none == [] and again == whole


@pytest.mark.parametrize(("shift", "side"), [(3.2, 1), (-3.2, -1)])
def test_an_optimum_outside_of_what_was_tried_extends_the_ladder(tunable: Corpus, tmp_path: Path, shift: float, side: int) -> None:  # fmt: skip
    rule, seen = tune(grid(), tunable, tmp_path, lambda run: 4.0 + CURVATURE * off_from(run, shift) ** 2)
    added = {round(math.log2(run.optimizer.lr / peak_lr(run.model.n_non_embedding))) for run in seen} - {
        -2,
        -1,
        0,
        1,
        2,
    }
    assert added == ({3, 4} if side > 0 else {-3, -4})
    assert all(rung.status == "interior" for rung in rule.rungs)
    assert tune(grid(), tunable, tmp_path, lambda _: 1 / 0)[1] == []  # the extension is replayed, not trained again


def test_without_refinement_only_what_brackets_is_trained(tunable: Corpus, tmp_path: Path) -> None:
    rule, seen = tune(grid(tuning={"refine": False}), tunable, tmp_path)
    assert len(seen) == 40 and all(rung.status == "interior" for rung in rule.rungs)


def test_an_optimum_too_far_away_is_reported_and_no_rule_is_written(tunable: Corpus, tmp_path: Path) -> None:
    sweep = grid(tuning={"max_extensions": 1})
    with pytest.raises(NotBracketed, match="max_extensions"):
        tune(sweep, tunable, tmp_path, lambda run: 4.0 + CURVATURE * off_from(run, -8.0) ** 2)
    assert len(open_ledger(tmp_path / "tuning").rows()) == 40 + 8 and rule_of(sweep, tmp_path) is None


def test_one_rung_that_is_not_bracketed_is_left_out(tunable: Corpus, tmp_path: Path) -> None:
    rule, _ = tune(grid(), tunable, tmp_path, lambda run: 4.0 + CURVATURE * off_from(run, -9 if run.model.d_model == 32 else 0.2) ** 2)  # fmt: skip
    assert [rung.status for rung in rule.rungs] == ["low edge"] * 2 + ["interior"] * 6
    assert sum("not bracketed" in note for note in rule.notes) == 2 and rule.rungs[0].lr is None


@pytest.mark.parametrize(
    ("losses", "added"),
    [
        ([4.2, 4.06, 4.04, 4.08, 4.5], (-0.5, 0.5)),  # surely above its lowest run at both ends: finer
        ([4.06, 4.05, 4.04, 4.08, 4.5], (-3,)),
        ([4.2, 4.06, 4.04, 4.05, 4.06], (3,)),
        ([4.06, 4.05, 4.04, 4.05, 4.06], (-3, 3)),
    ],
)
def test_a_flat_curve_is_widened_only_where_its_end_has_not_risen(
    losses: list[float], added: tuple[float, ...]
) -> None:
    curve = Curve(1e5, 1e6, 2048, np.arange(-9.0, -4.0), np.array(losses))
    flat = Optimum(1e5, 1e6, 2048, "flat", -7.0, math.inf, 4.04, 0.02, 0.01, 0)
    assert [math.log2(lr) + 7 for lr in _beyond(curve, flat, noise=0.02)] == pytest.approx(added)


def test_divergence_is_a_bound_and_the_ladder_looks_half_way(tunable: Corpus, tmp_path: Path) -> None:
    """Above 1.2 times the published rate everything diverges, and the loss falls up to there."""

    def losses(run: RunSpec) -> float | None:
        factor = run.optimizer.lr / peak_lr(run.model.n_non_embedding)
        return None if factor > 1.2 else 4.0 + CURVATURE * (math.log2(factor) + 0.9) ** 2

    rule, seen = tune(grid(), tunable, tmp_path, losses)
    assert len(seen) == 56  # bracketed from above by divergence
    assert all(rung.status == "interior" for rung in rule.rungs)

    def steep(run: RunSpec) -> float | None:
        factor = run.optimizer.lr / peak_lr(run.model.n_non_embedding)
        return None if factor > 1.2 else 4.0 + CURVATURE * (math.log2(factor) - 1) ** 2

    with pytest.raises(NotBracketed):
        tune(grid(), tunable, tmp_path / "steep", steep)
    tried = {row["lr"] / peak_lr(row["N_non_embedding"]) for row in open_ledger(tmp_path / "steep" / "tuning").rows()}
    assert any(abs(factor - 2**0.5) < 1e-6 for factor in tried)


def test_batches_are_tuned_after_learning_rates(tunable: Corpus, tmp_path: Path) -> None:
    """The best batch is 40 tokens at D = 25,600 and grows as D^0.5; the best learning rate as the square root of the batch."""

    def losses(run: RunSpec) -> float:
        batch_off = math.log2(run.batch_tokens / (40 * (run.tokens / 25_600) ** 0.5))
        lr_off = off_from(run) - 0.5 * math.log2(run.batch_tokens / 32)
        return 4.0 + 0.02 * batch_off**2 + CURVATURE * lr_off**2

    settings = TrainSettings(context=16, batch_tokens=32, precision="bf16")
    tuning = {"batch_factors": [0.5, 2.0], "max_extensions": 1, "lr_factors": [0.5, 1.0, 2.0, 4.0]}
    sweep = grid(tuning=tuning, train=settings, tokens=[25_600, 51_200, 102_400])
    rule, seen = tune(sweep, tunable, tmp_path, losses)
    assert {run.batch_tokens for run in seen} == {
        16,
        32,
        64,
        128,
    }  # 128: at D = 51,200 the best of three is at the edge
    assert all(run.tokens // run.batch_tokens >= 100 for run in seen)
    assert {run.tokens for run in seen} == {25_600, 51_200}  # one D for every batch
    assert rule.batch is not None and rule.batch.exponent("D") == pytest.approx(0.5, abs=0.02)
    assert rule.batch.value(1e5, 25_600) == pytest.approx(40, rel=0.02)
    plan = make_plan(sweep, tunable, rule=rule)
    assert {run.batch_tokens for run in plan.runs} == {64}
    assert tune(sweep, tunable, tmp_path, lambda _: 1 / 0) == (rule, [])
