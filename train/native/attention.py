"""Causal attention on a CPU, fused: `attention.cpp` as an operator of torch.

torch's own attention for CPUs trains half as fast as plain products; this is 1.3 to 2.4 times as fast as those (LOG.md).

Shape suffixes: B batch, H heads, T time (tokens), K head_dim.
"""

from __future__ import annotations

import ctypes
import struct
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ...models.transformer import Attend, blocked_attention
from .library import library


def attention_library(dtype: torch.dtype, head_dim: int) -> ctypes.CDLL:
    """`attention.cpp` for one head_dim, a multiple of 16.

    Raises:
        NotCompiled: as `library`.
    """
    return library("attention.cpp", dtype, f"-DHEAD_DIM={head_dim}")


@cache  # torch.compile reuses the code of a block for the next where both have the same function
def fused_attention(dtype: torch.dtype) -> Attend:
    """`blocked_attention`, fused for activations of `dtype`."""

    def attend(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor, mask_TT: Tensor) -> Tensor:
        if q_BHTK.dtype != dtype:
            return blocked_attention(q_BHTK, k_BHTK, v_BHTK, mask_TT)
        y_BHTK: Tensor = torch.ops.sixnd.causal_attention(q_BHTK, k_BHTK, v_BHTK)[0]
        return y_BHTK

    return attend


def _empty_like(x_BHTK: Tensor) -> Tensor:
    """(B, H, T, K), in memory as the projection that follows reads it: (B, T, H, K)."""
    batch, heads, length, head_dim = x_BHTK.shape
    return x_BHTK.new_empty(batch, length, heads, head_dim).transpose(1, 2)


def _logsumexp_of(q_BHTK: Tensor) -> Tensor:
    return q_BHTK.new_empty(q_BHTK.shape[:3], dtype=torch.float32)


def _call(name: str, tensors: list[Tensor], logsumexp_BHT: Tensor) -> None:
    dtype, (batch, heads, length, head_dim) = tensors[0].dtype, tensors[0].shape
    dense = [x if x.stride(3) == 1 else x.contiguous() for x in tensors]
    numbers = [batch, heads, length, *(number for x in dense for number in (x.data_ptr(), *x.stride()[:3]))]
    call = struct.pack(f"{len(numbers)}l", *numbers)
    getattr(attention_library(dtype, head_dim), name)(call, ctypes.c_void_p(logsumexp_BHT.data_ptr()))


def _forward(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor) -> tuple[Tensor, Tensor]:
    y_BHTK, logsumexp_BHT = _empty_like(q_BHTK), _logsumexp_of(q_BHTK)
    _call("forward", [q_BHTK, k_BHTK, v_BHTK, y_BHTK], logsumexp_BHT)
    return y_BHTK, logsumexp_BHT


def _backward(
    dy_BHTK: Tensor, q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor, y_BHTK: Tensor, logsumexp_BHT: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    dq_BHTK, dk_BHTK, dv_BHTK = (_empty_like(q_BHTK) for _ in range(3))
    tensors = [q_BHTK, k_BHTK, v_BHTK, y_BHTK, dy_BHTK, dq_BHTK, dk_BHTK, dv_BHTK]
    _call("backward", tensors, logsumexp_BHT)
    return dq_BHTK, dk_BHTK, dv_BHTK


def _forward_shapes(q_BHTK: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
    return _empty_like(q_BHTK), _logsumexp_of(q_BHTK)


def _backward_shapes(dy_BHTK: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_like(dy_BHTK), _empty_like(dy_BHTK), _empty_like(dy_BHTK)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)


def _pull(ctx: Any, dy_BHTK: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    pulls: tuple[Tensor, Tensor, Tensor] = torch.ops.sixnd.causal_attention_backward(dy_BHTK, *ctx.saved_tensors)
    return pulls


torch.library.define("sixnd::causal_attention", "(Tensor q, Tensor k, Tensor v) -> (Tensor, Tensor)")
torch.library.define(
    "sixnd::causal_attention_backward",
    "(Tensor dy, Tensor q, Tensor k, Tensor v, Tensor y, Tensor logsumexp) -> (Tensor, Tensor, Tensor)",
)
torch.library.impl("sixnd::causal_attention", "CPU", _forward)
torch.library.impl("sixnd::causal_attention_backward", "CPU", _backward)
torch.library.register_fake("sixnd::causal_attention", _forward_shapes)
torch.library.register_fake("sixnd::causal_attention_backward", _backward_shapes)
torch.library.register_autograd("sixnd::causal_attention", _pull, setup_context=_keep)
