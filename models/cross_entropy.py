"""Logits, cross-entropy and their gradients in one pass over pieces of the tokens: all logits together never exist.

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
    x_PD: Tensor, low_VD: Tensor, targets_P: Tensor, z_loss: float, n_tokens: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of a piece of `n_tokens`: sums of losses and of squared logsumexps, and the objective's gradients, (P, D) and (V, D)."""
    target_P1, token_V = targets_P.unsqueeze(1), torch.arange(len(low_VD), device=x_PD.device)
    logits_PV = (x_PD @ low_VD.t()).float()
    logsumexp_P1 = logits_PV.logsumexp(1, keepdim=True)
    loss = (logsumexp_P1 - logits_PV.gather(1, target_P1)).sum()
    # d objective / d logit = softmax · (1 + 2 z_loss logsumexp) - [is the target], over the tokens
    pull_PV = (logits_PV - logsumexp_P1).exp() * (1 + 2 * z_loss * logsumexp_P1)
    pull_PV = (pull_PV - (token_V == target_P1).float()).mul(1 / n_tokens).to(x_PD.dtype)
    return loss, logsumexp_P1.square().sum(), pull_PV @ low_VD, (pull_PV.t() @ x_PD).float()


Piece = Callable[[Tensor, Tensor, Tensor, float, int], tuple[Tensor, Tensor, Tensor, Tensor]]


class LinearCrossEntropy(torch.autograd.Function):
    """(x_ND, weight_VD, targets_N, z_loss, piece) -> (objective, loss), fp32 scalars.

    loss is the mean of logsumexp - target logit in nats per token, objective = loss + z_loss · mean logsumexp² (Chowdhery
    et al. 2022, PaLM, arXiv 2204.02311, section 5). Products are in the dtype of x, all else in fp32. Only the objective
    can be differentiated, once. `piece` is `piece_of_cross_entropy` or its compiled self: torch caches what it compiles
    across processes, but nothing that holds an autograd.Function, so the pieces are compiled and not their sum.
    """

    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, z_loss: float, piece: Piece
    ) -> tuple[Tensor, Tensor]:
        n_tokens, low_VD = len(x_ND), weight_VD.to(x_ND.dtype)
        rows = piece_tokens(x_ND, len(weight_VD))
        pairs = zip(x_ND.split(rows), targets_N.split(rows), strict=True)
        pieces = [piece(x_PD, low_VD, targets_P, z_loss, n_tokens) for x_PD, targets_P in pairs]
        losses, squares, x_gradients, weight_gradients = zip(*pieces, strict=True)
        loss = sum(losses) / n_tokens
        ctx.save_for_backward(torch.cat(x_gradients), sum(weight_gradients))
        ctx.mark_non_differentiable(loss)
        return loss + z_loss * sum(squares) / n_tokens, loss

    @staticmethod
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        x_gradient_ND, weight_gradient_VD = ctx.saved_tensors
        return x_gradient_ND * scale.to(x_gradient_ND.dtype), weight_gradient_VD * scale, None, None, None
