"""Columns by ratio and by budget, the presets, and memory: what the plan resolves and what it refuses."""

from __future__ import annotations

import json
from itertools import pairwise
from math import sqrt
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sixnd.models.config import ModelConfig
from sixnd.models.ladder import shape_for
from sixnd.sweeps.planning.grid import LARGEST_BATCH, cells_of, problems_of
from sixnd.sweeps.planning.plan import Plan, make_plan
from sixnd.sweeps.precision import in_precision
from sixnd.sweeps.spec import SpecError, SweepSpec, load_sweep
from sixnd.train.corpus.store import Corpus
from sixnd.train.memory import CUDA_ACTIVATION_BYTES, activation_bytes, micro_batch_tokens, training_bytes

from tests.conftest import tiny_spec

VOCAB = 1024
UNIQUE = {
    "demo": 5_600_000,
    "laptop-hour": 19_000_000,
    "h100-hour": 490_000_000,
    "h100-day": int(6.5e9),
    "cluster-8x8": int(2e10),
}


def sweep(**changes: Any) -> SweepSpec:
    return SweepSpec.model_validate({"name": "t", "corpus": tiny_spec()} | changes)


def planned(spec: SweepSpec, unique: int = 10**12, vocab_size: int = VOCAB) -> Plan:
    corpus = SimpleNamespace(vocab_size=vocab_size, train=range(unique), test=range(10_000), hash="h")
    return make_plan(in_precision(spec, "bf16"), cast(Corpus, corpus))


def test_a_ratio_is_of_all_parameters() -> None:
    plan = planned(sweep(tokens_per_parameter=[20, 40], shapes=[[2, 32], [2, 64]]))
    for trunk in plan.trunks:
        n = trunk.runs[0].model.n_total
        assert [run.tokens for run in trunk.runs] == [ratio * n // 2048 * 2048 for ratio in (20, 40)]
        assert {run.schedule.warmup_tokens for run in trunk.runs} == {min(n, int(0.05 * trunk.runs[0].tokens))}
    assert len(plan.trunks) == 2


def test_isoflop_curves_have_constant_flops_around_the_guess() -> None:
    spec = sweep(isoflop={"flops": ["1e14", 3e14], "sizes": 7, "spread": 4.0, "tokens_per_parameter": 20})
    cells = cells_of(spec, VOCAB)
    for flops in (1e14, 3e14):
        guess = sqrt(flops / 120)
        curve = [
            model.n_total
            for model, columns in cells.items()
            if any(abs(6 * model.n_total * tokens / flops - 1) < 0.01 for tokens in columns)
        ]
        assert len(curve) == 7
        assert min(curve) == pytest.approx(guess / 4, rel=0.2) and max(curve) == pytest.approx(guess * 4, rel=0.2)
        assert all(1.25 < later / earlier < 2.1 for earlier, later in pairwise(sorted(curve)))


def test_a_model_on_two_curves_has_one_trunk() -> None:
    plan = planned(sweep(isoflop={"flops": [1e14, 4e14], "sizes": 5, "spread": 2.0}))
    by_model: dict[ModelConfig, int] = {}
    for trunk in plan.trunks:
        by_model[trunk.runs[0].model] = by_model.get(trunk.runs[0].model, 0) + 1
    assert set(by_model.values()) == {1}
    assert max(len(trunk.runs) for trunk in plan.trunks) == 2 and plan.trunk_saving > 1


def test_isoflop_around_a_fit(tmp_path: Path) -> None:
    params = {"A": 400.0, "B": 400.0, "E": 1.7, "alpha": 0.3, "beta": 0.3}  # N* = D* = sqrt(C / 6)
    fit = {"law": "chinchilla", "n_runs": 9, "objective": 0.0, "params": params, "se": None, "ci95": None}
    fit |= {"frontier": {"a": 0.5, "b": 0.5, "a_ci95": None, "b_ci95": None}, "warnings": []}
    (tmp_path / "fit.json").write_text(json.dumps(fit))
    spec = sweep(isoflop={"flops": [6e12], "sizes": 3, "spread": 2.0, "fit": str(tmp_path / "fit.json")})
    sizes = [model.n_total for model in cells_of(spec, VOCAB)]
    assert sizes[1] == pytest.approx(1e6, rel=0.15)
    missing = sweep(isoflop={"flops": [6e12], "fit": "nowhere.json"})
    with pytest.raises(SpecError, match=r"t: isoflop: nowhere.json: cannot be read"):
        cells_of(missing, VOCAB)


def test_a_curve_below_the_ladder_is_refused() -> None:
    with pytest.raises(SpecError, match=r"isoflop.flops: 1e\+09 FLOPs leave 1 different models"):
        cells_of(sweep(isoflop={"flops": [1e9]}), VOCAB)


def test_every_d_that_is_wrong_gets_its_line() -> None:
    spec = sweep(tokens=[100_000, 1_000_000, 9_000_000], shapes=[[2, 32]])
    lines = list(problems_of(spec, cells_of(spec, VOCAB), 5_000_000))
    assert len(lines) == 2
    assert "D = 9,000,000 is beyond one epoch" in lines[0]
    assert "48 steps" in lines[1] and "at least 204,800" in lines[1] and "at most 768" in lines[1]


def test_a_batch_far_beyond_the_optimum_of_the_smallest_d_is_refused() -> None:
    def lines(batch: int) -> list[str]:
        spec = sweep(tokens=[10_000_000], shapes=[[2, 32]], train={"batch_tokens": batch, "context": 256})
        return list(problems_of(spec, cells_of(spec, VOCAB), 10**9))

    most = LARGEST_BATCH * 0.58 * 9_984_000**0.571
    assert not lines(int(most * 0.98) // 256 * 256)
    (line,) = lines(int(most * 1.05) // 256 * 256)
    assert "train.batch_tokens" in line and "arXiv 2503.04715" in line


def test_shapes_by_all_parameters_are_near() -> None:
    for target in (60_000, 300_000, 2_000_000, 50_000_000):
        model = ModelConfig.from_shape(*shape_for(target, VOCAB), VOCAB, 256)
        assert model.n_total == pytest.approx(target, rel=0.2)


@pytest.mark.parametrize("name", sorted(UNIQUE))
def test_presets_can_be_planned_and_can_identify_a_law(name: str) -> None:
    spec = load_sweep(name)
    plan = planned(spec, UNIQUE[name], spec.corpus.vocab_size)
    n, d = {run.model.n_total for run in plan.runs}, {run.tokens for run in plan.runs}
    assert len(n) >= 5 and len(d) >= 4 and max(n) / min(n) > 9 and max(d) / min(d) > 7
    assert ("hour" in name or "day" in name) == (spec.budget.hours is not None)
    assert (spec.executor == "ray") == (name == "cluster-8x8")


def test_a_plan_of_10000_runs_is_whole() -> None:
    plan = planned(
        sweep(
            shapes=[[layers, width] for layers in range(2, 12) for width in range(32, 352, 32)],
            tokens=[10**6 * 2**i for i in range(10)],
            seeds=list(range(10)),
        )
    )
    keys = [key for trunk in plan.trunks for key in trunk.keys]
    assert len(keys) == len(set(keys)) == 10_000 and len(plan.trunks) == 1000
    seconds = plan.seconds({run.model: 1e5 for run in plan.runs})
    assert seconds.keys() == set(keys) and min(seconds.values()) > 0


def test_memory_is_near_what_a_run_was_measured_at() -> None:
    model = ModelConfig.from_shape(6, 256, 1024, 256)  # a run of 5M parameters on a CPU peaked at 657 MB resident
    assert training_bytes(model, 2048, "cpu", "bf16") == pytest.approx(657e6, rel=0.25)


def test_plain_attention_keeps_its_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ModelConfig.from_shape(6, 256, 1024, 256)
    monkeypatch.setattr("sixnd.train.memory.fuses", lambda _: False)
    plain = activation_bytes(model, 2048, "cpu", "bf16")
    assert plain == activation_bytes(model, 2048, "cuda", "bf16") + 2048 * 6 * 2 * 8 * 256
    monkeypatch.setattr("sixnd.train.memory.fuses", lambda _: True)
    assert activation_bytes(model, 2048, "cpu", "bf16") == 2048 * (6 * 2 * (6 * 256 + 2 * 688) + 10 * 1024)


def test_memory_grows_with_the_model_and_the_micro_batch() -> None:
    small, large = (ModelConfig.from_shape(layers, 128, VOCAB, 256) for layers in (2, 8))
    assert training_bytes(small, 2048, "cpu", "bf16") < training_bytes(large, 2048, "cpu", "bf16")
    assert training_bytes(small, 2048, "cpu", "bf16") == training_bytes(small, 4096, "cpu", "bf16"), (
        "a batch is cut into micro-batches"
    )
    assert (
        micro_batch_tokens(small, 16_384, "cuda", "bf16") == 16_384
        and micro_batch_tokens(small, 16_384, "cpu", "bf16") == 2048
    )


def test_a_gpus_micro_batch_leaves_room() -> None:
    """The largest model of cluster-8x8 fits a GPU of 80 GB, whatever its batch; without a limit it would take 100 GB."""
    large = ModelConfig.from_shape(16, 2112, 8192, 1024)
    micro = micro_batch_tokens(large, 65_536, "cuda", "bf16")
    assert 1024 <= micro < 65_536 and 65_536 % micro == 0
    assert (
        activation_bytes(large, micro, "cuda", "bf16")
        <= CUDA_ACTIVATION_BYTES
        < activation_bytes(large, 2 * micro, "cuda", "bf16")
    )
    assert training_bytes(large, 65_536, "cuda", "bf16") < 30e9


def test_every_shape_that_no_model_has_is_one_line() -> None:
    spec = sweep(shapes=[[2, 33], [2, 32], [1, 528]], tokens=["1M"])
    with pytest.raises(SpecError) as error:
        cells_of(spec, VOCAB)
    assert str(error.value).splitlines() == [
        "t: shapes: [2, 33]: d_model = 33 is not a multiple of head_dim = 16",
        "t: shapes: [1, 528]: d_model = 528 is not a multiple of head_dim = 64",
    ]
