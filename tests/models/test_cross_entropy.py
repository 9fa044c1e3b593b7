"""The fused head against plain autograd: the same loss and gradients, whatever the pieces."""

from __future__ import annotations

import pytest
import sixnd.models.cross_entropy as cross_entropy
import torch
import torch.nn.functional as F
from sixnd.models.cross_entropy import LinearCrossEntropy, piece_of_cross_entropy

TOKENS, WIDTH, VOCABULARY, Z_LOSS = 50, 24, 70, 0.03


def inputs(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(TOKENS, WIDTH, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator).to(dtype).requires_grad_()
    return x, weight, torch.randint(VOCABULARY, (TOKENS,), generator=generator)


def gradients(of: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(of, (x, weight))


@pytest.mark.parametrize("tokens_of_a_piece", [7, 10, 512])
def test_objective_loss_and_gradients(tokens_of_a_piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "FEWEST_TOKENS", tokens_of_a_piece)
    monkeypatch.setattr(cross_entropy, "CPU_LOGITS", 0)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # all of it in fp64
    x, weight, targets = inputs()
    objective, loss = LinearCrossEntropy.apply(x, weight, targets, Z_LOSS, piece_of_cross_entropy)
    logits = x @ weight.t()
    expected = F.cross_entropy(logits, targets)
    torch.testing.assert_close(loss, expected, check_dtype=False)
    plain = expected + Z_LOSS * logits.logsumexp(1).square().mean()
    torch.testing.assert_close(objective, plain, check_dtype=False)
    torch.testing.assert_close(gradients(objective / 3, x, weight), gradients(plain / 3, x, weight))


def test_bf16_products_and_fp32_weights() -> None:
    """The gradient of the weights is fp32 and right to bf16's rounding; the loss has no gradient of its own."""
    x, weight, targets = inputs(torch.float32)
    low = x.detach().bfloat16().requires_grad_()
    objective, loss = LinearCrossEntropy.apply(low, weight, targets, Z_LOSS, piece_of_cross_entropy)
    assert objective.dtype == loss.dtype == torch.float32 and not loss.requires_grad
    logits = x @ weight.t()
    plain = F.cross_entropy(logits, targets) + Z_LOSS * logits.logsumexp(1).square().mean()
    assert abs(objective.item() / plain.item() - 1) < 1e-2
    for rounded, exact in zip(gradients(objective, low, weight), gradients(plain, x, weight), strict=True):
        assert (rounded.float() - exact).norm() / exact.norm() < 2e-2
    assert (
        gradients(LinearCrossEntropy.apply(low, weight, targets, 0.0, piece_of_cross_entropy)[0], low, weight)[1].dtype
        == torch.float32
    )
