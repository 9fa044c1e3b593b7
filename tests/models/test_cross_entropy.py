"""The fused head against plain autograd: the same loss and gradients, whatever the pieces."""

from __future__ import annotations

from functools import partial

import pytest
import sixnd.models.cross_entropy as cross_entropy
import torch
import torch.nn.functional as F
from sixnd.models.cross_entropy import NormedCrossEntropy, gradients_in_pieces, piece_of_cross_entropy

TOKENS, WIDTH, VOCABULARY, EPS, Z_LOSS = 50, 24, 70, 1e-5, 0.03
Three = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Three, torch.Tensor]:
    """Residual stream, gain of the norm and embedding table; targets."""
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(TOKENS, WIDTH, generator=generator) * 3).to(dtype).requires_grad_()
    gain = (1 + 0.3 * torch.randn(WIDTH, generator=generator)).to(dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator).to(dtype).requires_grad_()
    return (x, gain, weight), torch.randint(VOCABULARY, (TOKENS,), generator=generator)


def fused(three: Three, targets: torch.Tensor, z_loss: float = Z_LOSS) -> tuple[torch.Tensor, torch.Tensor]:
    x, gain, weight = three
    return NormedCrossEntropy.apply(
        x, gain, EPS, weight, targets, z_loss, partial(gradients_in_pieces, piece_of_cross_entropy)
    )


def plain(three: Three, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same by autograd."""
    x, gain, weight = three
    logits = F.rms_norm(x, (WIDTH,), gain, EPS) @ weight.t()
    loss = F.cross_entropy(logits, targets)
    return loss + Z_LOSS * logits.logsumexp(1).square().mean(), loss


@pytest.mark.parametrize("tokens_of_a_piece", [7, 10, 512])
def test_objective_loss_and_gradients(tokens_of_a_piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "FEWEST_TOKENS", tokens_of_a_piece)
    monkeypatch.setattr(cross_entropy, "CPU_LOGITS", 0)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # all of it in fp64
    three, targets = inputs()
    (objective, loss), (expected_objective, expected) = fused(three, targets), plain(three, targets)
    torch.testing.assert_close((objective, loss), (expected_objective, expected), check_dtype=False)
    seen, right = (torch.autograd.grad(of / 3, three) for of in (objective, expected_objective))
    torch.testing.assert_close(seen, right)


def test_bf16_products_and_fp32_weights() -> None:
    """The gradients of gain and weights are fp32 and right to bf16's rounding; the loss has no gradient of its own."""
    (x, gain, weight), targets = inputs(torch.float32)
    low = (x.detach().bfloat16().requires_grad_(), gain, weight)
    (objective, loss), (expected, _) = fused(low, targets), plain((x, gain, weight), targets)
    assert objective.dtype == loss.dtype == torch.float32 and not loss.requires_grad
    assert abs(objective.item() / expected.item() - 1) < 1e-2
    seen, right = torch.autograd.grad(objective, low), torch.autograd.grad(expected, (x, gain, weight))
    assert [gradient.dtype for gradient in seen] == [torch.bfloat16, torch.float32, torch.float32]
    for rounded, exact in zip(seen, right, strict=True):
        assert (rounded.float() - exact).norm() / exact.norm() < 2e-2
    assert torch.autograd.grad(fused(low, targets, 0.0)[0], low)[2].dtype == torch.float32
