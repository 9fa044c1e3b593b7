"""Final norm, logits, cross-entropy and their gradients in one pass over pieces of the tokens: all logits together never exist.

The gradients are computed forward, while a piece's logits are still in the cache, so that nothing is multiplied twice and
backward only scales them (as in Hsu et al. 2024, Liger Kernel, arXiv 2410.10989, section 3.2).

Shape suffixes: N tokens, P tokens of a piece, D d_model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

FEWEST_TOKENS = 512  # of a piece: fewer make slow products
CPU_LOGITS = 2**20  # of a piece, which stay in the cache: within 3 % of the best from vocabulary 1024 to 8192 (LOG.md)
CUDA_LOGITS = 2**28  # large products, and half a gigabyte at most in bf16


def piece_tokens(x_ND: Tensor, vocabulary: int) -> int:
    """Tokens of one piece on the device of x."""
    return max(FEWEST_TOKENS, (CUDA_LOGITS if x_ND.is_cuda else CPU_LOGITS) // vocabulary)


class Piece(NamedTuple):
    """Of a piece of the tokens: sums over them, and the objective's gradients, the last one without the targets' own rows."""

    loss: Tensor
    squares: Tensor  # of the logsumexp
    x_pull_PD: Tensor
    gain_pull_D: Tensor
    weight_pull_VD: Tensor
    y_PD: Tensor  # what the logits are products of, fp32


def piece_of_cross_entropy(
    x_PD: Tensor, gain_D: Tensor, eps: float, low_VD: Tensor, targets_P: Tensor, z_loss: float, n_tokens: int
) -> Piece:
    """Of a piece of `n_tokens`.

    d objective / d logit = (softmax · (1 + 2 z_loss logsumexp) - [is the target]) / n_tokens. Only the softmax goes through
    products: the target's part is one row of the table, gathered here and scattered by `NormedCrossEntropy`. In bf16 that is
    the more exact way where losses are above .5 nats per token, and the less exact one below .2 (LOG.md).
    """
    x_fp32_PD = x_PD.float()
    scale_P1 = torch.rsqrt(x_fp32_PD.square().mean(-1, keepdim=True) + eps)
    unit_PD = x_fp32_PD * scale_P1
    y_PD = (unit_PD * gain_D).to(x_PD.dtype)
    logits_PV = (y_PD @ low_VD.t()).float()
    largest_P1 = logits_PV.amax(1, keepdim=True)
    odds_PV = (logits_PV - largest_P1).exp()  # serves loss and gradient: exponentials are what costs most here
    total_P1 = odds_PV.sum(1, keepdim=True)
    softmax_PV = (odds_PV / total_P1).to(x_PD.dtype)
    logsumexp_P1 = largest_P1 + total_P1.log()
    y_fp32_PD, target_PD = y_PD.float(), low_VD[targets_P].float()
    loss = (logsumexp_P1 - (y_fp32_PD * target_PD).sum(1, keepdim=True)).sum()
    share_P1 = (1 + 2 * z_loss * logsumexp_P1) / n_tokens
    y_pull_PD = (softmax_PV @ low_VD).float() * share_P1 - target_PD / n_tokens
    # Through the norm: what is left of the pull across the unit vector, for its length changes nothing.
    unit_pull_PD = y_pull_PD * gain_D
    x_pull_PD = scale_P1 * (unit_pull_PD - unit_PD * (unit_pull_PD * unit_PD).mean(-1, keepdim=True))
    weight_pull_VD = (softmax_PV.t() @ (y_fp32_PD * share_P1).to(x_PD.dtype)).float()
    return Piece(
        loss,
        logsumexp_P1.square().sum(),
        x_pull_PD.to(x_PD.dtype),
        (y_pull_PD * unit_PD).sum(0),
        weight_pull_VD,
        y_fp32_PD,
    )


class Gradients(NamedTuple):
    """Of all tokens: sums over them, and the objective's gradients."""

    loss: Tensor
    squares: Tensor  # of the logsumexp
    x_pull_ND: Tensor
    gain_pull_D: Tensor
    weight_pull_VD: Tensor


def gradients_in_pieces(
    piece: Callable[..., Piece],
    x_ND: Tensor,
    gain_D: Tensor,
    eps: float,
    weight_VD: Tensor,
    targets_N: Tensor,
    z_loss: float,
) -> Gradients:
    """By `piece`, which is `piece_of_cross_entropy` or its compiled self."""
    n_tokens, low_VD = len(x_ND), weight_VD.to(x_ND.dtype)
    rows = piece_tokens(x_ND, len(weight_VD))
    pairs = zip(x_ND.split(rows), targets_N.split(rows), strict=True)
    pieces = [piece(x_PD, gain_D, eps, low_VD, targets_P, z_loss, n_tokens) for x_PD, targets_P in pairs]
    losses, squares, x_pulls, gain_pulls, weight_pulls, ys = zip(*pieces, strict=True)
    # As in an embedding's gradient: each token's y is taken off the row of its target.
    rows_VD = torch.ops.aten.embedding_dense_backward(torch.cat(ys), targets_N, len(weight_VD), -1, False)
    weight_pull_VD = sum(weight_pulls).sub_(rows_VD, alpha=1 / n_tokens)
    return Gradients(sum(losses), sum(squares), torch.cat(x_pulls), sum(gain_pulls), weight_pull_VD)


class NormedCrossEntropy(torch.autograd.Function):
    """(x_ND, gain_D, eps, weight_VD, targets_N, z_loss, gradients) -> (objective, loss), fp32 scalars.

    The logits are those of `RMSNorm` and a linear layer. loss is the mean of logsumexp - target logit in nats per token,
    objective = loss + z_loss · mean logsumexp² (Chowdhery et al. 2022, PaLM, arXiv 2204.02311, section 5). Products are in
    the dtype of x, all else in fp32. Only the objective can be differentiated, once. `gradients` is `gradients_in_pieces`
    with its piece, or something faster: torch caches what it compiles across processes, but nothing that holds an
    autograd.Function, so the pieces are compiled and not their sum; the norm is among them because graphs of its own take
    3 s to compile.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_ND: Tensor,
        gain_D: Tensor,
        eps: float,
        weight_VD: Tensor,
        targets_N: Tensor,
        z_loss: float,
        gradients: Callable[..., Gradients],
    ) -> tuple[Tensor, Tensor]:
        n_tokens, got = len(x_ND), gradients(x_ND, gain_D, eps, weight_VD, targets_N, z_loss)
        ctx.save_for_backward(got.x_pull_ND, got.gain_pull_D, got.weight_pull_VD)
        loss = got.loss / n_tokens
        ctx.mark_non_differentiable(loss)
        return loss + z_loss * got.squares / n_tokens, loss

    @staticmethod
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, Tensor, None, None, None]:
        x_gradient_ND, gain_gradient_D, weight_gradient_VD = ctx.saved_tensors
        x_gradient_ND = x_gradient_ND * scale.to(x_gradient_ND.dtype)
        return x_gradient_ND, gain_gradient_D * scale, None, weight_gradient_VD * scale, None, None, None
