"""What a ladder refuses, and the grid that uses its rule."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import pytest
from sixnd.models.config import ModelConfig
from sixnd.sweeps.driver import run_sweep
from sixnd.sweeps.planning.plan import make_plan
from sixnd.sweeps.spec import SpecError, TrainSettings, load_sweep
from sixnd.sweeps.tuning.rule_file import RuleFile, check_rule, read_rule, tuned_settings, worst_excess
from sixnd.sweeps.tuning.run import rule_of
from sixnd.sweeps.tuning.spec import TuningSettings
from sixnd.train.corpus.store import Corpus
from sixnd.train.loop import RunError, train
from sixnd.train.settings import peak_lr
from sixnd.train.spec import RunSpec

from tests.sweeps.test_tune import CURVATURE, Scripted, grid, ladder, smooth, tune

# --- what is refused --------------------------------------------------------------------------------------------------


def test_every_error_of_a_tuning_table_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(
        'name = "t"\ntokens = ["1M"]\nshapes = [[2, 32]]\n[tuning]\nlr_factors = [1, 2]\nrungs = 3\nparams = ["x"]\n'
    )
    with pytest.raises(SpecError) as error:
        load_sweep(str(path))
    lines = str(error.value).splitlines()
    assert len(lines) == 3 and "allowed are params, tokens, lr_factors" in str(error.value)
    with pytest.raises(SpecError, match="rule takes the place of a ladder"):
        load_sweep("demo", ("tuning.rule=x.json", "tuning.seeds=[1]"))
    with pytest.raises(SpecError, match="power of two"):
        load_sweep("demo", ("tuning.batch_factors=[3]",))


def test_nothing_to_tune_or_nothing_to_tune_on(tunable: Corpus, corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no validation side") as error:
        ladder(
            grid(train=TrainSettings(context=16, batch_tokens=64, lr=0.01, precision="bf16"), tokens=[6400]),
            corpus,
            tmp_path,
        )
    assert len(str(error.value).splitlines()) == 2 and 'train.lr = "auto"' in str(error.value)
    with pytest.raises(SpecError, match="outside the ladder"):
        ladder(grid(tuning={"params": ["1k", "30k"]}), tunable, tmp_path)
    with pytest.raises(SpecError, match="two values fall on one shape"):
        ladder(grid(tuning={"params": [50_000, 50_001]}), tunable, tmp_path)
    with pytest.raises(SpecError, match="beyond one epoch"):
        tune(grid(tuning={"tokens": ["1M", "1B"]}), tunable, tmp_path)


def test_a_run_on_a_side_that_is_not_there_is_refused(corpus: Corpus, corpora: Path, run_spec: RunSpec) -> None:
    with pytest.raises(RunError, match="validation_fraction"):
        train(run_spec.model_copy(update={"held_out": "validation"}), corpora=corpora, say=lambda _: None)


def test_a_run_is_evaluated_on_the_side_it_names(tunable: Corpus, run_spec: RunSpec) -> None:
    spec = run_spec.model_copy(update={"corpus": tunable.hash, "tokens": 640})
    other = spec.model_copy(update={"held_out": "validation"})
    assert "held_out" not in spec.model_dump() and spec.key != other.key
    quiet = {"corpora": tunable.path.parent, "say": lambda _: None, "listener": lambda _: None}
    test, validation = train(spec, **quiet), train(other, **quiet)  # type: ignore[arg-type]
    assert test.test_loss != validation.test_loss
    assert test.test_loss == pytest.approx(validation.test_loss, rel=0.05)
    assert validation.curve[-1].loss != test.curve[-1].loss


# --- the grid ---------------------------------------------------------------------------------------------------------


def test_the_grid_uses_the_rule_at_the_geometric_mean_of_a_row(tunable: Corpus, tmp_path: Path) -> None:
    sweep = grid(tuning={})
    assert rule_of(sweep, tmp_path) is None and rule_of(grid(), tmp_path) is None
    made, _ = tune(sweep, tunable, tmp_path)
    rule = rule_of(sweep, tmp_path)
    assert rule == made
    plan = make_plan(sweep, tunable, rule=rule)
    assert plan.rule == rule.digest and make_plan(sweep, tunable).rule is None
    assert len({run.trunk_key for run in plan.runs}) == 5
    for run in plan.runs:
        middle = (6400 * 51_200) ** 0.5
        best = peak_lr(run.model.n_non_embedding) * 2**0.2 * (middle / 6400) ** 0.25
        assert run.optimizer.lr == pytest.approx(best, rel=1e-4) and run.held_out == "test"
    model = plan.runs[-1].model
    lr, batch = tuned_settings(rule, model, sweep.tokens)
    assert (lr, batch) == (plan.runs[-1].optimizer.lr, 64)
    # 1.5 octaves of D away from the middle at either end, 0.375 octaves of the learning rate
    assert worst_excess(rule, model, sweep.tokens) == pytest.approx(CURVATURE * 0.375**2, rel=0.01)


def test_a_rule_is_refused_where_it_does_not_hold(tunable: Corpus, tmp_path: Path) -> None:
    tune(grid(), tunable, tmp_path)
    path = tmp_path / "tuning" / "rule.json"
    elsewhere = grid(tuning={"rule": str(path)})
    assert rule_of(elsewhere, tmp_path / "other") == read_rule(path)
    changed = elsewhere.train.model_copy(update={"weight_decay": 0.2, "batch_tokens": 128})
    with pytest.raises(SpecError) as error:
        check_rule(read_rule(path), path, changed.model_dump(mode="json"))
    assert [line.split(" = ")[0].split()[-1] for line in str(error.value).splitlines()] == ["train.weight_decay", "train.batch_tokens"]  # fmt: skip
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(SpecError, match="not a rule of version 1: version"):
        read_rule(path)
    with pytest.raises(SpecError, match="sixnd tune"):
        read_rule(tmp_path / "none.json")


def test_tuned_and_untuned_runs_do_not_share_a_ledger(tunable: Corpus, tmp_path: Path) -> None:
    rule, _ = tune(grid(), tunable, tmp_path)
    sweep, out = grid(), tmp_path / "grid"

    def run(with_rule: RuleFile | None) -> None:
        scripted = partial(Scripted, smooth, math.inf, [])
        run_sweep(sweep, make_plan(sweep, tunable, rule=with_rule), out, tunable.path.parent, scripted, {})

    run(None)
    with pytest.raises(SpecError, match=r"tuning\.rule"):
        run(rule)


def test_a_batch_rule_gives_powers_of_two_of_the_context(tunable: Corpus, tmp_path: Path) -> None:
    rule, _ = tune(grid(), tunable, tmp_path)
    law = rule.lr.model_copy(update={"log2_at_centre": math.log2(30), "exponents": (0.0, 0.5)})
    both = rule.model_copy(update={"batch": law})
    model = ModelConfig.from_shape(2, 32, 300, 16)
    batches = [tuned_settings(both, model, [d])[1] for d in (6400, 12_800, 51_200, 10**7)]
    assert batches == sorted(batches) and all(math.log2(b / 16).is_integer() for b in batches)
    assert tuned_settings(both, model, [1])[1] == 16
    plan = make_plan(grid(), tunable, rule=both)
    (batch,) = {run.batch_tokens for run in plan.runs}
    assert all(run.tokens % batch == 0 for run in plan.runs) and len({run.tokens for run in plan.runs}) == 4


def test_the_settings_of_a_ladder_have_defaults() -> None:
    assert TuningSettings().lr_factors == [0.25, 0.5, 1.0, 2.0, 4.0] and TuningSettings().max_extensions == 3
    assert "tuning" not in grid(tuning={}).settings()
