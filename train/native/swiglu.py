"""The SwiGLU's gate on a CPU, fused: `swiglu.cpp` as an operator of torch.

Shape suffixes: B batch, T time (tokens), F d_ff, G gate and up side by side (2 d_ff).
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ...models.transformer import Gate, gated
from .library import library


def swiglu_library(dtype: torch.dtype) -> ctypes.CDLL:
    """`swiglu.cpp`, for a d_ff that is a multiple of 16.

    Raises:
        NotCompiled: as `library`.
    """
    return library("swiglu.cpp", dtype)


@cache
def fused_gate(dtype: torch.dtype) -> Gate:
    """`gated`, fused for activations of `dtype`."""

    def gate(x_BTG: Tensor) -> Tensor:
        h_BTF: Tensor = torch.ops.sixnd.swiglu(x_BTG) if x_BTG.dtype == dtype else gated(x_BTG)
        return h_BTF

    return gate


def _call(name: str, *tensors: Tensor) -> None:
    rows, features = tensors[0].shape[:-1].numel(), tensors[0].shape[-1] // 2
    pointers = (ctypes.c_void_p(x.data_ptr()) for x in tensors)
    getattr(swiglu_library(tensors[0].dtype), name)(ctypes.c_long(rows), ctypes.c_long(features), *pointers)


def _forward(x_BTG: Tensor) -> Tensor:
    h_BTF = _forward_shape(x_BTG)
    _call("forward", x_BTG.contiguous(), h_BTF)
    return h_BTF


def _backward(dh_BTF: Tensor, x_BTG: Tensor) -> Tensor:
    dx_BTG = _backward_shape(dh_BTF, x_BTG)
    _call("backward", x_BTG.contiguous(), dh_BTF.contiguous(), dx_BTG)
    return dx_BTG


def _forward_shape(x_BTG: Tensor) -> Tensor:
    return x_BTG.new_empty(*x_BTG.shape[:-1], x_BTG.shape[-1] // 2)


def _backward_shape(_: Tensor, x_BTG: Tensor) -> Tensor:
    return x_BTG.new_empty(x_BTG.shape)


def _keep(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:  # noqa: ARG001
    ctx.save_for_backward(*inputs)


def _pull(ctx: Any, dh_BTF: Tensor) -> Tensor:
    dx_BTG: Tensor = torch.ops.sixnd.swiglu_backward(dh_BTF, *ctx.saved_tensors)
    return dx_BTG


torch.library.define("sixnd::swiglu", "(Tensor x) -> Tensor")
torch.library.define("sixnd::swiglu_backward", "(Tensor dh, Tensor x) -> Tensor")
torch.library.impl("sixnd::swiglu", "CPU", _forward)
torch.library.impl("sixnd::swiglu_backward", "CPU", _backward)
torch.library.register_fake("sixnd::swiglu", _forward_shape)
torch.library.register_fake("sixnd::swiglu_backward", _backward_shape)
torch.library.register_autograd("sixnd::swiglu", _pull, setup_context=_keep)
