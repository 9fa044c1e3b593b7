"""A stack is its models: the same outputs and gradients as each of them alone, and none reaches into another."""

from __future__ import annotations

import pytest
import torch
from sixnd.models.config import ModelConfig
from sixnd.models.stack import StackedTransformer
from sixnd.models.transformer import Transformer

SEEDS = (3, 4, 5)
CONFIG = ModelConfig.from_shape(2, 48, 300, 32)


def tokens(seed: int) -> torch.Tensor:
    """(models, batch, time)."""
    return torch.randint(0, 300, (len(SEEDS), 2, 32), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[False, True], ids=["plain", "qk-norm"])
def config(request: pytest.FixtureRequest) -> ModelConfig:
    return CONFIG.model_copy(update={"qk_norm": request.param})


def build(config: ModelConfig) -> tuple[StackedTransformer, list[Transformer]]:
    stack = StackedTransformer(config, len(SEEDS))
    stack.initialize_each(SEEDS)
    models = [Transformer(config) for _ in SEEDS]
    for model, seed in zip(models, SEEDS, strict=True):
        model.initialize(seed)
    return stack, models


def test_outputs_and_gradients_are_those_of_each_model(config: ModelConfig) -> None:
    stack, models = build(config)
    x, y = tokens(0), tokens(1)
    z_loss_M = torch.tensor([0.0, 0.01, 0.1])
    objective_M, loss_M = stack(x.flatten(0, 1), y.flatten(0, 1), torch.float32, z_loss_M)
    objective_M.sum().backward()
    for m, model in enumerate(models):
        objective, loss = model(x[m], y[m], torch.float32, z_loss_M[m].item())
        torch.testing.assert_close(objective_M[m], objective)
        torch.testing.assert_close(loss_M[m], loss)
        objective.backward()
        for (name, one), (_, all_of_them) in zip(model.named_parameters(), stack.named_parameters(), strict=True):
            assert one.grad is not None and all_of_them.grad is not None
            torch.testing.assert_close(all_of_them.grad[m], one.grad, atol=1e-4, rtol=1e-4, msg=name)


def test_bf16_rounds_where_a_single_model_does() -> None:
    stack, models = build(CONFIG)
    x, y = tokens(0), tokens(1)
    _, loss_M = stack(x.flatten(0, 1), y.flatten(0, 1), torch.bfloat16)
    alone_M = torch.stack([model(x[m], y[m], torch.bfloat16)[1] for m, model in enumerate(models)])
    assert loss_M.dtype == torch.float32
    assert (loss_M - alone_M).abs().max() < 5e-3


def test_a_model_goes_in_and_comes_out_unchanged() -> None:
    stack, models = build(CONFIG)
    for m, model in enumerate(models):
        assert all(torch.equal(stack.state_of_one(m)[name], value) for name, value in model.state_dict().items())
        Transformer(CONFIG).load_state_dict(stack.state_of_one(m))
    stack.initialize(4)
    assert torch.equal(stack.embedding[0], models[1].embedding) and torch.equal(stack.embedding[2], stack.embedding[0])
    assert sum(p.numel() for p in stack.parameters()) == len(SEEDS) * CONFIG.n_total


def test_a_broken_model_leaves_the_others_alone() -> None:
    stack, models = build(CONFIG)
    with torch.no_grad():
        stack.embedding[1].fill_(torch.nan)
    x, y = tokens(0), tokens(1)
    objective_M, loss_M = stack(x.flatten(0, 1), y.flatten(0, 1), torch.float32)
    objective_M.sum().backward()
    assert loss_M[1].isnan()
    for m in (0, 2):
        torch.testing.assert_close(loss_M[m], models[m](x[m], y[m], torch.float32)[1])
        assert all(p.grad is not None and p.grad[m].isfinite().all() for p in stack.parameters())
