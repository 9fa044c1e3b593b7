"""A whole block on a CPU, forward and backward: `attention.cpp` and `mlp.cpp`.

Shape suffixes: B batch, T time (tokens), D d_model, G gate and up (2 d_ff), K head_dim / 2.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ...models.transformer import Block, Positions, Run, run_block
from .library import address, library, packed


def attention_library(dtype: torch.dtype, head_dim: int) -> ctypes.CDLL:
    """`attention.cpp`, for a head_dim that is a multiple of 16.

    Raises:
        NotCompiled: as `library`.
    """
    return library("attention.cpp", dtype, f"-DHEAD_DIM={head_dim}")


def mlp_library(dtype: torch.dtype) -> ctypes.CDLL:
    """`mlp.cpp`, for a width and d_ff that are multiples of 16.

    Raises:
        NotCompiled: as `library`.
    """
    return library("mlp.cpp", dtype)


@cache
def fused_block(dtype: torch.dtype) -> Run:
    """`run_block`, fused for activations of `dtype`."""

    def run(block: Block, x_BTD: Tensor, at: Positions) -> Tensor:
        if x_BTD.dtype != dtype:
            return run_block(block, x_BTD, at)
        attention, mlp = block.attention, block.mlp
        query_gain, key_gain = (getattr(norm, "gain", None) for norm in (attention.query_norm, attention.key_norm))
        gains = (block.attention_norm.gain, query_gain, key_gain)
        matrices = (attention.qkv.weight, attention.output.weight)
        eps = block.attention_norm.eps
        mid_BTD = AttentionLayer.apply(x_BTD, *gains, *matrices, at.cos_TK, at.sin_TK, eps)  # type: ignore[no-untyped-call]
        weights = (block.mlp_norm.gain, mlp.gate_up.weight, mlp.down.weight)
        y_BTD: Tensor = MLPLayer.apply(mid_BTD, *weights, eps)  # type: ignore[no-untyped-call]
        return y_BTD

    return run


def _zeros_like(w: Tensor | None) -> Tensor | None:
    return None if w is None else torch.zeros_like(w)


class AttentionLayer(torch.autograd.Function):
    """(x_BTD, gain, gains of queries and keys or None, W_qkv, W_output, cosines, sines, eps) -> x + attention of its norm.

    Kept for backward: x, query, key and value, the attention's output and its logsumexp.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_BTD: Tensor,
        gain_D: Tensor,
        query_gain: Tensor | None,
        key_gain: Tensor | None,
        qkv: Tensor,
        output: Tensor,
        cos_TK: Tensor,
        sin_TK: Tensor,
        eps: float,
    ) -> Tensor:
        x_BTD, y_BTD = x_BTD.contiguous(), torch.empty_like(x_BTD, memory_format=torch.contiguous_format)
        batch, length, width = x_BTD.shape
        logsumexp = x_BTD.new_empty(batch, width // (2 * cos_TK.shape[1]), length, dtype=torch.float32)
        kept = (x_BTD.new_empty(batch, length, 3 * width), torch.empty_like(y_BTD), logsumexp)
        weights = (gain_D, query_gain, key_gain, qkv, output, cos_TK, sin_TK)
        attention_library(x_BTD.dtype, 2 * cos_TK.shape[1]).forward(
            packed("l", batch, length, width),
            packed("f", eps),
            packed("P", *weights),
            address(x_BTD),
            packed("P", *kept),
            address(y_BTD),
        )
        ctx.save_for_backward(x_BTD, *kept, *weights)
        ctx.eps = eps
        return y_BTD

    @staticmethod
    def backward(ctx: Any, dy_BTD: Tensor) -> tuple[Tensor | None, ...]:
        x_BTD, *others = ctx.saved_tensors
        kept, weights = others[:3], others[3:]
        gain_D, query_gain, key_gain, qkv, output, cos_TK, _ = weights
        pulls = (
            torch.empty_like(x_BTD),
            *map(_zeros_like, (gain_D, query_gain, key_gain)),
            torch.empty_like(qkv),
            torch.empty_like(output),
        )
        dy_BTD = dy_BTD.contiguous()
        attention_library(x_BTD.dtype, 2 * cos_TK.shape[1]).backward(
            packed("l", *x_BTD.shape),
            packed("f", ctx.eps),
            packed("P", *weights),
            address(x_BTD),
            packed("P", *kept),
            address(dy_BTD),
            packed("P", *pulls),
        )
        return *pulls, None, None, None


class MLPLayer(torch.autograd.Function):
    """(x_BTD, gain, W_gate_up, W_down, eps) -> x + MLP of its norm. Kept for backward: x, gate and up."""

    @staticmethod
    def forward(ctx: Any, x_BTD: Tensor, gain_D: Tensor, gate_up: Tensor, down: Tensor, eps: float) -> Tensor:
        y_BTD, gate_up_BTG = torch.empty_like(x_BTD), x_BTD.new_empty(*x_BTD.shape[:2], len(gate_up))
        mlp_library(x_BTD.dtype).forward(
            packed("l", x_BTD.shape[:2].numel(), *down.shape),
            packed("f", eps),
            packed("P", gain_D, gate_up, down),
            *map(address, (x_BTD, gate_up_BTG, y_BTD)),
        )
        ctx.save_for_backward(x_BTD, gate_up_BTG, gain_D, gate_up, down)
        ctx.eps = eps
        return y_BTD

    @staticmethod
    def backward(ctx: Any, dy_BTD: Tensor) -> tuple[Tensor | None, ...]:
        x_BTD, gate_up_BTG, *weights = ctx.saved_tensors
        gain_D, gate_up, down = weights
        pulls = (torch.empty_like(x_BTD), torch.zeros_like(gain_D), torch.empty_like(gate_up), torch.empty_like(down))
        dy_BTD = dy_BTD.contiguous()
        mlp_library(x_BTD.dtype).backward(
            packed("l", x_BTD.shape[:2].numel(), *down.shape),
            packed("f", ctx.eps),
            packed("P", *weights),
            *map(address, (x_BTD, gate_up_BTG, dy_BTD)),
            packed("P", *pulls),
        )
        return *pulls, None
