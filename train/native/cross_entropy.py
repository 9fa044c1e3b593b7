"""Final norm, logits and cross-entropy with their gradients, and the scores of evaluation, on a CPU: `cross_entropy.cpp`.

Shape suffixes: B batch, T time (tokens), P tokens of a piece, D d_model, V vocabulary.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from ...models.cross_entropy import Piece, piece_of_cross_entropy
from ...models.transformer import Head, Score, score_head
from .library import address, library, packed


def cross_entropy_library(dtype: torch.dtype) -> ctypes.CDLL:
    """`cross_entropy.cpp`, for widths that are multiples of 16.

    Raises:
        NotCompiled: as `library`.
    """
    return library("cross_entropy.cpp", dtype)


@cache
def fused_cross_entropy(dtype: torch.dtype) -> Callable[..., Piece]:
    """`piece_of_cross_entropy`, fused for activations of `dtype`; its logits, which never leave the cache, are not rounded to bf16."""

    def piece(
        x_PD: Tensor, gain_D: Tensor, eps: float, low_VD: Tensor, targets_P: Tensor, z_loss: float, n_tokens: int
    ) -> Piece:
        if x_PD.dtype != dtype:
            return piece_of_cross_entropy(x_PD, gain_D, eps, low_VD, targets_P, z_loss, n_tokens)
        inputs = [x.detach().contiguous() for x in (x_PD, gain_D, low_VD, targets_P)]
        n_here, width = x_PD.shape
        outputs = Piece(
            loss=gain_D.new_empty(()),
            squares=gain_D.new_empty(()),
            x_pull_PD=inputs[0].new_empty(x_PD.shape),
            gain_pull_D=torch.empty(width, dtype=torch.float32),
            weight_pull_VD=torch.empty(low_VD.shape, dtype=torch.float32),
            y_PD=torch.empty(n_here, width, dtype=torch.float32),
        )
        sizes, numbers = packed("l", n_here, width, len(low_VD)), packed("f", eps, z_loss, n_tokens)
        cross_entropy_library(dtype).piece_of_cross_entropy(
            sizes, numbers, *map(address, inputs), packed("P", *outputs)
        )
        return outputs

    return piece


@cache
def fused_scores(dtype: torch.dtype) -> Score:
    """`score_head`, fused for activations of `dtype`; its logits are not rounded either."""

    def score(head: Head, x_BTD: Tensor, embedding_VD: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
        if x_BTD.dtype != dtype:
            return score_head(head, x_BTD, embedding_VD, targets_BT)
        inputs = [x.detach().contiguous() for x in (x_BTD, head.norm.gain, embedding_VD.to(dtype), targets_BT)]
        nats_BT, correct_BT = torch.empty(targets_BT.shape), torch.empty(targets_BT.shape, dtype=torch.bool)
        sizes = packed("l", targets_BT.numel(), x_BTD.shape[-1], len(embedding_VD))
        cross_entropy_library(dtype).scores(
            sizes, packed("f", head.norm.eps), *map(address, (*inputs, nats_BT, correct_BT))
        )
        return nats_BT, correct_BT

    return score
