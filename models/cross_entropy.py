"""Final norm, logits, cross-entropy and their gradients in one pass over pieces of the tokens: all logits together never exist.

The gradients are computed forward, while a piece's logits are still in the cache, so that nothing is multiplied twice and
backward only scales them (as in Hsu et al. 2024, Liger Kernel, arXiv 2410.10989, section 3.2).

Shape suffixes: N tokens, P tokens of a piece, D d_model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

FEWEST_TOKENS = 512  # of a piece: fewer make slow products
CPU_LOGITS = 2**20  # of a piece, which stay in the cache: within 3 % of the best from vocabulary 1024 to 8192 (LOG.md)
CUDA_LOGITS = 2**28  # large products, and half a gigabyte at most in bf16


def piece_tokens(x_ND: Tensor, vocabulary: int) -> int:
    """Tokens of one piece on the device of x."""
    return max(FEWEST_TOKENS, (CUDA_LOGITS if x_ND.is_cuda else CPU_LOGITS) // vocabulary)


def piece_of_cross_entropy(
    x_PD: Tensor, gain_D: Tensor, eps: float, low_VD: Tensor, targets_P: Tensor, z_loss: float, n_tokens: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Of a piece of `n_tokens`: sums of losses and of squared logsumexps, and the objective's gradients, (P, D), (D) and (V, D)."""
    target_P1, token_V = targets_P.unsqueeze(1), torch.arange(len(low_VD), device=x_PD.device)
    x_fp32_PD = x_PD.float()
    scale_P1 = torch.rsqrt(x_fp32_PD.square().mean(-1, keepdim=True) + eps)
    unit_PD = x_fp32_PD * scale_P1
    y_PD = (unit_PD * gain_D).to(x_PD.dtype)
    logits_PV = (y_PD @ low_VD.t()).float()
    largest_P1 = logits_PV.amax(1, keepdim=True)
    odds_PV = (logits_PV - largest_P1).exp()  # serves loss and gradient: exponentials are what costs most here
    total_P1 = odds_PV.sum(1, keepdim=True)
    logsumexp_P1 = largest_P1 + total_P1.log()
    loss = (logsumexp_P1 - logits_PV.gather(1, target_P1)).sum()
    # d objective / d logit = softmax · (1 + 2 z_loss logsumexp) - [is the target], over the tokens
    share_P1 = (1 + 2 * z_loss * logsumexp_P1) / (total_P1 * n_tokens)
    pull_PV = (odds_PV * share_P1 - (token_V == target_P1).float() / n_tokens).to(x_PD.dtype)
    y_pull_PD = (pull_PV @ low_VD).float()
    # Through the norm: what is left of the pull across the unit vector, for its length changes nothing.
    unit_pull_PD = y_pull_PD * gain_D
    x_pull_PD = scale_P1 * (unit_pull_PD - unit_PD * (unit_pull_PD * unit_PD).mean(-1, keepdim=True))
    gain_pull_D, weight_pull_VD = (y_pull_PD * unit_PD).sum(0), (pull_PV.t() @ y_PD).float()
    return loss, logsumexp_P1.square().sum(), x_pull_PD.to(x_PD.dtype), gain_pull_D, weight_pull_VD


Piece = Callable[[Tensor, Tensor, float, Tensor, Tensor, float, int], tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]


class NormedCrossEntropy(torch.autograd.Function):
    """(x_ND, gain_D, eps, weight_VD, targets_N, z_loss, piece) -> (objective, loss), fp32 scalars.

    The logits are those of `RMSNorm` and a linear layer. loss is the mean of logsumexp - target logit in nats per token,
    objective = loss + z_loss · mean logsumexp² (Chowdhery et al. 2022, PaLM, arXiv 2204.02311, section 5). Products are in
    the dtype of x, all else in fp32. Only the objective can be differentiated, once. `piece` is `piece_of_cross_entropy`
    or its compiled self: torch caches what it compiles across processes, but nothing that holds an autograd.Function, so
    the pieces are compiled and not their sum; the norm is among them because graphs of its own take 3 s to compile.
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
        piece: Piece,
    ) -> tuple[Tensor, Tensor]:
        n_tokens, low_VD = len(x_ND), weight_VD.to(x_ND.dtype)
        rows = piece_tokens(x_ND, len(weight_VD))
        pairs = zip(x_ND.split(rows), targets_N.split(rows), strict=True)
        pieces = [piece(x_PD, gain_D, eps, low_VD, targets_P, z_loss, n_tokens) for x_PD, targets_P in pairs]
        losses, squares, x_gradients, gain_gradients, weight_gradients = zip(*pieces, strict=True)
        loss = sum(losses) / n_tokens
        ctx.save_for_backward(torch.cat(x_gradients), sum(gain_gradients), sum(weight_gradients))
        ctx.mark_non_differentiable(loss)
        return loss + z_loss * sum(squares) / n_tokens, loss

    @staticmethod
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, Tensor, None, None, None]:
        x_gradient_ND, gain_gradient_D, weight_gradient_VD = ctx.saved_tensors
        x_gradient_ND = x_gradient_ND * scale.to(x_gradient_ND.dtype)
        return x_gradient_ND, gain_gradient_D * scale, None, weight_gradient_VD * scale, None, None, None
