"""AdamW and Muon: what decays, that both learn, and that their state goes to disk and back to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sixnd.models.transformer import Transformer
from sixnd.train.batches import BatchStream
from sixnd.train.corpus.store import Corpus
from sixnd.train.optimizer import MuonWithAdamW, build_optimizer
from sixnd.train.settings import OptimizerSettings, beta2_for, peak_lr
from sixnd.train.spec import RunSpec

from tests.conftest import BATCH, CONTEXT

NAMES = ("adamw", "muon")


def with_optimizer(spec: RunSpec, **settings: object) -> RunSpec:
    return spec.model_copy(update={"optimizer": spec.optimizer.model_copy(update=settings)})


def one_step(
    model: Transformer, optimizer: torch.optim.Optimizer, corpus: Corpus, step: int, lr: float = 0.01
) -> float:
    windows_WT = BatchStream(corpus.train, CONTEXT, seed=0).batch(step * BATCH, BATCH)
    loss = model(windows_WT[:, :-1], windows_WT[:, 1:], torch.bfloat16)[0].mean()
    loss.backward()
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


def start(spec: RunSpec) -> tuple[Transformer, torch.optim.Optimizer]:
    model = Transformer(spec.model)
    model.initialize(0)
    return model, build_optimizer(model, spec.optimizer)


@pytest.mark.parametrize("name", NAMES)
def test_both_learn(run_spec: RunSpec, corpus: Corpus, name: str) -> None:
    model, optimizer = start(with_optimizer(run_spec, name=name))
    losses = [one_step(model, optimizer, corpus, step) for step in range(40)]
    assert sum(losses[-5:]) / 5 < losses[0] - 1


@pytest.mark.parametrize("name", NAMES)
def test_a_state_dict_goes_to_disk_and_back_to_the_bit(
    run_spec: RunSpec, corpus: Corpus, tmp_path: Path, name: str
) -> None:
    """Six steps in one go, or three, a file, and three more in a fresh optimizer."""
    spec = with_optimizer(run_spec, name=name)
    model, optimizer = start(spec)
    straight = [one_step(model, optimizer, corpus, step, 0.01 / (1 + step)) for step in range(6)]
    half, half_optimizer = start(spec)
    for step in range(3):
        one_step(half, half_optimizer, corpus, step, 0.01 / (1 + step))
    torch.save((half.state_dict(), half_optimizer.state_dict()), tmp_path / "state.pt")
    weights, state = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed, resumed_optimizer = start(spec)
    resumed.load_state_dict(weights)
    resumed_optimizer.load_state_dict(state)
    rest = [one_step(resumed, resumed_optimizer, corpus, step, 0.01 / (1 + step)) for step in range(3, 6)]
    assert rest == straight[3:]
    for mine, theirs in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("name", NAMES)
def test_decay_touches_every_matrix_and_no_gain(run_spec: RunSpec, name: str) -> None:
    """With gradients of zero only decay is left of a step."""
    model, optimizer = start(with_optimizer(run_spec, name=name, weight_decay=0.5))
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    optimizer.step()
    for key, parameter in model.named_parameters():
        kept = 1.0 if parameter.ndim == 1 else 1 - 0.1 * 0.5
        torch.testing.assert_close(parameter.detach(), before[key] * kept, msg=key)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(before)


def test_muon_moves_the_blocks_matrices_by_the_same_size_and_adamw_the_rest(run_spec: RunSpec, corpus: Corpus) -> None:
    """The scaling of Liu et al. 2025: root mean square of an update about 0.2 lr, whatever the matrix's shape."""
    model, optimizer = start(with_optimizer(run_spec, name="muon", weight_decay=0.0))
    assert isinstance(optimizer, MuonWithAdamW)
    hidden = {id(p) for p in optimizer.muon.param_groups[0]["params"]}
    assert hidden == {id(p) for p in model.blocks.parameters() if p.ndim == 2}
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    one_step(model, optimizer, corpus, 0)
    for key, parameter in model.named_parameters():
        moved = (parameter.detach() - before[key]).square().mean().sqrt().item() / 0.01
        if id(parameter) in hidden:
            assert 0.1 < moved < 0.3, key
        elif parameter.ndim == 1:
            assert moved == pytest.approx(1, rel=0.01), key
    assert set(optimizer.state) == set(model.parameters())


def test_muon_follows_the_rate_that_is_set_after_a_load(run_spec: RunSpec, corpus: Corpus) -> None:
    """Loading makes new groups; the two parts must step with those."""
    model, optimizer = start(with_optimizer(run_spec, name="muon"))
    one_step(model, optimizer, corpus, 0)
    optimizer.load_state_dict(optimizer.state_dict())
    before = [p.detach().clone() for p in model.parameters()]
    one_step(model, optimizer, corpus, 1, lr=0.0)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    with pytest.raises(ValueError, match="closure"):
        optimizer.step(lambda: 0.0)


def test_the_default_optimizer_leaves_no_trace_in_a_spec() -> None:
    """Specs hashed before there was a choice keep their keys."""
    assert set(OptimizerSettings(lr=0.01, beta2=0.99).model_dump()) == {
        "lr", "beta1", "beta2", "eps", "weight_decay", "clip_norm", "z_loss",
    }  # fmt: skip
    muon = OptimizerSettings(name="muon", lr=0.01, beta2=0.99)
    assert OptimizerSettings.model_validate_json(muon.model_dump_json()) == muon
    with pytest.raises(ValueError, match="'adamw' or 'muon'"):
        OptimizerSettings.model_validate({"name": "sgd", "lr": 0.01, "beta2": 0.99})


def test_beta2_keeps_a_half_life_in_tokens() -> None:
    assert beta2_for(2048) == 0.999
    assert beta2_for(20_000) ** (2e6 / 20_000) == pytest.approx(0.5)
    assert beta2_for(10**7) == 0.95


def test_default_peak_falls_with_n() -> None:
    rates = [peak_lr(n) for n in (10_000, 100_000, 1_000_000, 100_000_000)]
    assert rates == sorted(rates, reverse=True) and rates[0] <= 0.02
