"""Final norm, logits and cross-entropy with their gradients, and the scores of evaluation, on a CPU: `cross_entropy.cpp`.

Shape suffixes: B batch, T time (tokens), N tokens, D d_model, V vocabulary.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from ...models.cross_entropy import Gradients, gradients_in_pieces, piece_of_cross_entropy
from ...models.transformer import Head, Score, score_head
from .library import address, library, packed


def cross_entropy_library(dtype: torch.dtype) -> ctypes.CDLL:
    """`cross_entropy.cpp`, for widths that are multiples of 16.

    Raises:
        NotCompiled: as `library`.
    """
    return library("cross_entropy.cpp", dtype)


@cache
def fused_cross_entropy(dtype: torch.dtype) -> Callable[..., Gradients]:
    """`gradients_in_pieces`, fused for activations of `dtype`; its logits, which never leave the cache, are not rounded to bf16."""

    def gradients(
        x_ND: Tensor, gain_D: Tensor, eps: float, weight_VD: Tensor, targets_N: Tensor, z_loss: float
    ) -> Gradients:
        if x_ND.dtype != dtype:
            return gradients_in_pieces(piece_of_cross_entropy, x_ND, gain_D, eps, weight_VD, targets_N, z_loss)
        inputs = [x.detach().contiguous() for x in (x_ND, gain_D, weight_VD, targets_N)]
        outputs = Gradients(
            loss=gain_D.new_empty(()),
            squares=gain_D.new_empty(()),
            x_pull_ND=torch.empty_like(inputs[0]),
            gain_pull_D=torch.zeros_like(inputs[1]),
            weight_pull_VD=torch.zeros_like(inputs[2]),
        )
        sizes, numbers = packed("l", *x_ND.shape, len(weight_VD)), packed("f", eps, z_loss)
        cross_entropy_library(dtype).gradients(sizes, numbers, *map(address, inputs), packed("P", *outputs))
        return outputs

    return gradients


@cache
def fused_scores(dtype: torch.dtype) -> Score:
    """`score_head`, fused for activations of `dtype`; its logits are not rounded either."""

    def score(head: Head, x_BTD: Tensor, embedding_VD: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
        if x_BTD.dtype != dtype:
            return score_head(head, x_BTD, embedding_VD, targets_BT)
        inputs = [x.detach().contiguous() for x in (x_BTD, head.norm.gain, embedding_VD, targets_BT)]
        nats_BT, correct_BT = torch.empty(targets_BT.shape), torch.empty(targets_BT.shape, dtype=torch.bool)
        sizes = packed("l", targets_BT.numel(), x_BTD.shape[-1], len(embedding_VD))
        cross_entropy_library(dtype).scores(
            sizes, packed("f", head.norm.eps), *map(address, (*inputs, nats_BT, correct_BT))
        )
        return nats_BT, correct_BT

    return score
