"""Logits, cross-entropy and their gradients in one pass over pieces of the tokens: all logits together never exist.

The gradients are computed forward, while a piece's logits are still in the cache, so that nothing is multiplied twice and
backward only scales them (as in Hsu et al. 2024, Liger Kernel, arXiv 2410.10989, section 3.2).

Shape suffixes: N tokens, P tokens of a piece, D d_model, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CPU_TOKENS = 512  # of a piece: best or within 3 % of it from vocabulary 1024 to 8192 (LOG.md)
CUDA_LOGITS = 2**28  # of a piece: large products, and half a gigabyte at most in bf16


def piece_tokens(x_ND: Tensor, vocabulary: int) -> int:
    """Tokens of one piece on the device of x."""
    return max(CPU_TOKENS, CUDA_LOGITS // vocabulary) if x_ND.is_cuda else CPU_TOKENS


class LinearCrossEntropy(torch.autograd.Function):
    """(x_ND, weight_VD, targets_N, z_loss) -> (objective, loss), fp32 scalars.

    loss is the mean of logsumexp - target logit in nats per token, objective = loss + z_loss · mean logsumexp² (Chowdhery
    et al. 2022, PaLM, arXiv 2204.02311, section 5). Products are in the dtype of x, all else in fp32. Only the objective
    can be differentiated, once.
    """

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
        n_tokens, vocabulary = len(x_ND), len(weight_VD)
        low_VD, token_V = weight_VD.to(x_ND.dtype), torch.arange(vocabulary, device=x_ND.device)
        rows = piece_tokens(x_ND, vocabulary)
        loss = z = torch.zeros((), device=x_ND.device)
        x_gradients, weight_gradient_VD = [], torch.zeros((), device=x_ND.device)
        for x_PD, targets_P in zip(x_ND.split(rows), targets_N.split(rows), strict=True):
            target_P1 = targets_P.unsqueeze(1)
            logits_PV = (x_PD @ low_VD.t()).float()
            logsumexp_P1 = logits_PV.logsumexp(1, keepdim=True)
            loss = loss + (logsumexp_P1 - logits_PV.gather(1, target_P1)).sum()
            z = z + logsumexp_P1.square().sum()
            # d objective / d logit = softmax · (1 + 2 z_loss logsumexp) - [is the target], over the tokens
            pull_PV = (logits_PV - logsumexp_P1).exp() * (1 + 2 * z_loss * logsumexp_P1)
            pull_PV = (pull_PV - (token_V == target_P1).float()).mul(1 / n_tokens).to(x_ND.dtype)
            x_gradients.append(pull_PV @ low_VD)
            weight_gradient_VD = weight_gradient_VD + (pull_PV.t() @ x_PD).float()
        ctx.save_for_backward(torch.cat(x_gradients), weight_gradient_VD)
        loss = loss / n_tokens
        ctx.mark_non_differentiable(loss)
        return loss + z_loss * z / n_tokens, loss

    @staticmethod
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x_gradient_ND, weight_gradient_VD = ctx.saved_tensors
        return x_gradient_ND * scale.to(x_gradient_ND.dtype), weight_gradient_VD * scale, None, None
