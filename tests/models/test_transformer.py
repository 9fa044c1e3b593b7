"""The module: causal, the same in blocks as whole, equal to plain attention, close in bf16."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from sixnd.models.config import ModelConfig
from sixnd.models.transformer import Transformer, causal_attention

CONFIG = ModelConfig.from_shape(2, 48, 300, 32)


@pytest.fixture
def model() -> Transformer:
    built = Transformer(CONFIG)
    built.initialize(7)
    return built


def tokens(seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 300, (3, 32), generator=torch.Generator().manual_seed(seed))


def test_a_later_token_changes_no_earlier_logit(model: Transformer) -> None:
    x = tokens()
    changed = x.clone()
    changed[:, 20] = (changed[:, 20] + 1) % 300
    before, after = model.logits(x), model.logits(changed)
    assert torch.equal(before[:, :20], after[:, :20])
    assert not torch.allclose(before[:, 20:], after[:, 20:])


@pytest.mark.parametrize("rows", [32, 8, 5])
def test_blocked_attention_is_attention(rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 32, 16, generator=generator) for _ in range(3))
    mask = torch.full((32, 32), float("-inf")).triu(1)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(causal_attention(q, k, v, mask, rows), expected)


def test_positions_matter(model: Transformer) -> None:
    x = tokens()
    swapped = x.clone()
    swapped[:, [3, 9]] = x[:, [9, 3]]
    assert not torch.allclose(model.logits(x)[:, -1], model.logits(swapped)[:, -1])


def test_loss_is_cross_entropy_and_starts_near_that_of_guessing(model: Transformer) -> None:
    x, y = tokens(0), tokens(1)
    objective, loss = model(x, y, torch.float32, 0.01)
    logits = model.logits(x)
    torch.testing.assert_close(loss, F.cross_entropy(logits.transpose(1, 2), y))
    torch.testing.assert_close(objective, loss + 0.01 * logits.logsumexp(-1).square().mean())
    assert abs(loss.item() - math.log(300)) < 0.6


def test_bf16_stays_close_to_fp32(model: Transformer) -> None:
    x, y = tokens(0), tokens(1)
    exact, rounded = (model(x, y, dtype)[1].item() for dtype in (torch.float32, torch.bfloat16))
    assert exact != rounded
    assert abs(exact - rounded) < 0.01


def test_weights_follow_from_the_seed() -> None:
    first, same, other = (Transformer(CONFIG) for _ in range(3))
    first.initialize(1)
    same.initialize(1)
    other.initialize(2)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), same.parameters(), strict=True))
    assert not torch.equal(first.embedding, other.embedding)


def test_qk_norm_bounds_the_scores() -> None:
    config = CONFIG.model_copy(update={"qk_norm": True})
    model = Transformer(config)
    model.initialize(0)
    with torch.no_grad():
        for block in model.blocks:
            block.attention.qkv.weight.mul_(1e4)  # type: ignore[union-attr, operator]
    assert torch.isfinite(model.logits(tokens())).all()
