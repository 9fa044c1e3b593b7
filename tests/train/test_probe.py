"""The probe: what it times, and what compilation saves of it."""

from __future__ import annotations

import subprocess

import pytest
import sixnd.train.probe as probing
import torch
from sixnd.models.config import ModelConfig
from sixnd.train.device import native_precision, pick_device
from sixnd.train.machine import fuses, has_compiler, usable_cores
from sixnd.train.probe import (
    LARGEST_ON_CPU,
    MOST_GAIN,
    MOST_TIMED,
    SAVED,
    Saved,
    Trial,
    as_it_is,
    probe,
    saved_by_compilation,
    speeds_on_cpu,
    speeds_on_gpu,
    spread,
)
from sixnd.train.settings import Precision
from sixnd.train.speed import ProbeRequest

MODELS = tuple(ModelConfig.from_shape(1, width, 300, 16) for width in (32, 48, 64))
REQUEST = ProbeRequest(models=MODELS, batch_tokens=64, precision="bf16", seconds=0.1, slots=1)


def trials_that_take(seconds: tuple[float, ...]) -> list[Trial]:
    """For the two depths compiled, then the two eager."""
    made = [Trial(lambda: None, tokens=64) for _ in seconds]
    for trial, s in zip(made, seconds, strict=True):
        object.__setattr__(trial, "seconds", lambda s=s: s)
    return made


def test_what_compilation_saves_follows_depth_and_width() -> None:
    # Outside the blocks 2 s become 1; a block of width 48 takes 5 s eagerly and 3 compiled.
    saved = saved_by_compilation(trials_that_take((10.0, 4.0, 17.0, 7.0)), REQUEST)
    assert saved.elsewhere * 64 == pytest.approx(1.0) and saved.block * 64 * 48 == pytest.approx(2.0)
    deeper = ModelConfig.from_shape(4, 96, 300, 16)
    assert 64 / saved.applied(deeper, 64 / 50) == pytest.approx(50 - 1 - 4 * 2 * 96 / 48)
    assert saved.applied(deeper, 64 / 18) == pytest.approx(MOST_GAIN * 64 / 18)  # never faster than was ever seen
    assert Saved().applied(deeper, 10.0) == pytest.approx(10.0)


def test_few_shapes_are_timed_of_many() -> None:
    shapes = [(layers, width) for width in (32, 64, 1024) for layers in range(1, 9)]
    request = REQUEST.model_copy(update={"models": tuple(ModelConfig.from_shape(*shape, 300, 16) for shape in shapes)})
    chosen = spread(request, torch.device("cpu"), 10**12)
    assert len(chosen) == MOST_TIMED and chosen[0] == request.models[0]
    assert max(model.n_total for model in chosen) <= LARGEST_ON_CPU < request.models[-1].n_total
    on_a_gpu = spread(request, torch.device("cuda"), 10**12)
    assert len(on_a_gpu) == MOST_TIMED and (on_a_gpu[0], on_a_gpu[-1]) == (request.models[0], request.models[-1])
    assert max(model.d_model for model in spread(request, torch.device("cuda"), 10**9)) == 64  # the rest do not fit
    alone = request.model_copy(update={"models": request.models[-1:]})
    assert spread(alone, torch.device("cpu"), 10**12) == alone.models
    assert spread(request.model_copy(update={"models": ()}), torch.device("cpu"), 10**12) == ()
    stacked = request.model_copy(update={"alike": 8})  # which fit by eight
    assert max(model.d_model for model in spread(stacked, torch.device("cuda"), 2 * 10**9)) == 64
    assert max(model.d_model for model in spread(request, torch.device("cuda"), 2 * 10**9)) == 1024


def test_a_step_of_a_trial_trains() -> None:
    trial = Trial.of(MODELS[0], REQUEST, torch.device("cpu"), as_it_is)
    assert trial.tokens == 64 and trial.seconds() > 0


@pytest.mark.parametrize(("avx512", "amx"), [(True, False), (False, True), (False, False)])
def test_bf16_is_native_where_the_processor_multiplies_in_it(
    avx512: bool, amx: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert native_precision(torch.device("cpu")) == ("bf16" if avx512 or amx else "fp32")


@pytest.mark.parametrize("instructions", [True, False])
def test_bf16_is_native_on_gpus_that_do_not_emulate_it(instructions: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation or instructions
    )
    assert native_precision(torch.device("cuda")) == ("bf16" if instructions else "fp32")


def test_the_probe_says_what_is_native() -> None:
    assert probe(REQUEST.model_copy(update={"models": ()})).precision == native_precision(pick_device())


def test_runs_that_are_alike_are_timed_as_one_program() -> None:
    """On a GPU alone: elsewhere they are not stacked."""
    three = REQUEST.model_copy(update={"alike": 3})
    trial = Trial.of(MODELS[0], three, torch.device("cpu"), as_it_is)
    assert trial.tokens == 3 * 64 and trial.seconds() > 0
    answer = probe(three)
    assert answer.stacked == (3 if torch.cuda.is_available() else 1) and min(answer.tokens_per_s) > 0


def test_what_a_step_spends_outside_products() -> None:
    matrix, vector = torch.randn(512, 512), torch.randn(1 << 20)
    products = Trial(lambda: [matrix @ matrix for _ in range(20)] and None, tokens=64)
    passes = Trial(lambda: [vector * 2 for _ in range(20)] and None, tokens=64)
    assert products.outside_products() < 0.2 and passes.outside_products() == 1


def test_compilation_saves_passes_and_no_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing of a model that is fused, here the last one."""
    trials = iter(trials_that_take((2.0, 1.0, 0.5)) * 2)
    monkeypatch.setattr(probing, "fuses", lambda model: model is MODELS[-1])
    monkeypatch.setattr(Trial, "of", lambda *_, **__: next(trials))
    monkeypatch.setattr(Trial, "outside_products", lambda trial: trial.seconds() / 4)
    assert speeds_on_cpu(REQUEST, torch.device("cpu"), compiled=False) == pytest.approx((32, 64, 128))
    left = [1 - SAVED * share for share in (0.5, 0.25, 0.0)]
    assert speeds_on_cpu(REQUEST, torch.device("cpu"), compiled=True) == pytest.approx(
        (32 / left[0], 64 / left[1], 128 / left[2])
    )


@pytest.mark.skipif(usable_cores() < 2, reason="one core: nothing is timed beside anything")
def test_every_other_core_is_kept_busy_and_released(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def companion(precision: Precision) -> subprocess.Popen[bytes]:
        started.append(probing_companion(precision))
        return started[-1]

    def fails(*_: object) -> None:
        assert len(started) == 1 and started[0].poll() is None
        raise RuntimeError("timed")

    probing_companion = probing._companion
    monkeypatch.setattr(probing, "_companion", companion)
    monkeypatch.setattr(probing, "speeds_on_cpu", fails)
    with pytest.raises(RuntimeError, match="timed"):
        probe(REQUEST.model_copy(update={"slots": 2}))
    assert started[0].returncode is not None


@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler on this machine")
def test_what_compilation_saves_is_measured_as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHDYNAMO_DISABLE")
    assert min(speeds_on_gpu(REQUEST, torch.device("cpu"), compiled=True)) > 0


@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler on this machine")
def test_compiled_where_there_is_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHDYNAMO_DISABLE")
    answer = probe(REQUEST)
    assert answer.compiled and answer.slots == 1 and min(answer.tokens_per_s) > 0
    assert answer.compiles == (torch.cuda.is_available() or not all(map(fuses, MODELS)))
