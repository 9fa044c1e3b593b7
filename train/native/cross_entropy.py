"""Final norm, logits and cross-entropy with their gradients on a CPU, fused: `cross_entropy.cpp` as an operator of torch.

Shape suffixes: P tokens of a piece, D d_model, V vocabulary.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from ...models.cross_entropy import Piece, piece_of_cross_entropy
from .library import library

NAME = "sixnd::piece_of_cross_entropy"


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
        return Piece(*torch.ops.sixnd.piece_of_cross_entropy(x_PD, gain_D, eps, low_VD, targets_P, z_loss, n_tokens))

    return piece


def _piece(
    x_PD: Tensor, gain_D: Tensor, eps: float, low_VD: Tensor, targets_P: Tensor, z_loss: float, n_tokens: int
) -> Piece:
    inputs = [x.detach().contiguous() for x in (x_PD, gain_D, low_VD, targets_P)]
    n_here, width = x_PD.shape
    piece = Piece(
        loss=gain_D.new_empty(()),
        squares=gain_D.new_empty(()),
        x_pull_PD=inputs[0].new_empty(x_PD.shape),
        gain_pull_D=torch.empty(width, dtype=torch.float32),
        weight_pull_VD=torch.empty(low_VD.shape, dtype=torch.float32),
        y_PD=torch.empty(n_here, width, dtype=torch.float32),
    )
    sizes = (ctypes.c_long * 3)(n_here, width, len(low_VD))
    numbers = (ctypes.c_float * 3)(eps, z_loss, n_tokens)
    outputs = (ctypes.c_void_p * len(piece))(*(x.data_ptr() for x in piece))
    pointers = [ctypes.c_void_p(x.data_ptr()) for x in inputs]
    cross_entropy_library(x_PD.dtype).piece_of_cross_entropy(sizes, numbers, *pointers, outputs)
    return piece


# An operator, so that profiles tell it by name.
torch.library.define(
    NAME,
    "(Tensor x, Tensor gain, float eps, Tensor weight, Tensor targets, float z_loss, int n_tokens) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
torch.library.impl(NAME, "CPU", _piece)
