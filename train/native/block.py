"""A whole block on a CPU, forward and backward: `attention.cpp` and `mlp.cpp`.

Shape suffixes: B batch, T time (tokens), D d_model, K head_dim / 2.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ...models.transformer import Block, Positions, Run, run_block
from .library import address, library, packed


def block_libraries(dtype: torch.dtype, head_dim: int) -> tuple[ctypes.CDLL, ctypes.CDLL]:
    """`attention.cpp` and `mlp.cpp`, for a head_dim, width and d_ff that are multiples of 16.

    Raises:
        NotCompiled: as `library`.
    """
    return library("attention.cpp", dtype, f"-DHEAD_DIM={head_dim}"), library("mlp.cpp", dtype)


@cache
def fused_block(dtype: torch.dtype) -> Run:
    """`run_block`, fused for activations of `dtype`."""

    def run(block: Block, x_BTD: Tensor, at: Positions) -> Tensor:
        if x_BTD.dtype != dtype:
            return run_block(block, x_BTD, at)
        attention, mlp = block.attention, block.mlp
        norms = (attention.query_norm, attention.key_norm)
        y_BTD: Tensor = FusedBlock.apply(  # type: ignore[no-untyped-call]
            x_BTD,
            block.attention_norm.gain,
            *(getattr(norm, "gain", None) for norm in norms),
            attention.qkv.weight,
            attention.output.weight,
            block.mlp_norm.gain,
            mlp.gate_up.weight,
            mlp.down.weight,
            at.cos_TK,
            at.sin_TK,
            block.attention_norm.eps,
        )
        return y_BTD

    return run


class FusedBlock(torch.autograd.Function):
    """(x_BTD, gain, gain of queries and keys or None, W_qkv, W_output, gain, W_gate_up, W_down, cosines, sines, eps) -> y_BTD.

    Kept for backward: x, the stream between the layers, query, key and value, gate and up, the attention's output and its
    logsumexp; norms, rotations, and what goes into W_down are computed again.
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
        mlp_gain_D: Tensor,
        gate_up: Tensor,
        down: Tensor,
        cos_TK: Tensor,
        sin_TK: Tensor,
        eps: float,
    ) -> Tensor:
        x_BTD = x_BTD.contiguous()
        batch, length, width = x_BTD.shape
        head_dim = 2 * cos_TK.shape[1]
        attention, mlp = block_libraries(x_BTD.dtype, head_dim)
        sizes, mlp_sizes = packed("l", batch, length, width), packed("l", batch * length, width, down.shape[1])
        weights = packed("P", gain_D, query_gain, key_gain, qkv, output, cos_TK, sin_TK)
        mlp_weights = packed("P", mlp_gain_D, gate_up, down)
        kept_qkv, attended = x_BTD.new_empty(batch, length, 3 * width), torch.empty_like(x_BTD)
        logsumexp = x_BTD.new_empty(batch, width // head_dim, length, dtype=torch.float32)
        kept_gate_up = x_BTD.new_empty(batch, length, len(gate_up))
        mid_BTD, y_BTD = torch.empty_like(x_BTD), torch.empty_like(x_BTD)
        number = packed("f", eps)
        attention.forward(
            sizes,
            number,
            weights,
            address(x_BTD),
            packed("P", kept_qkv, attended, logsumexp),
            address(mid_BTD),
        )
        mlp.forward(
            mlp_sizes,
            number,
            mlp_weights,
            *map(address, (mid_BTD, kept_gate_up, y_BTD)),
        )
        ctx.save_for_backward(
            x_BTD,
            mid_BTD,
            kept_qkv,
            attended,
            logsumexp,
            kept_gate_up,
            gain_D,
            query_gain,
            key_gain,
            qkv,
            output,
            mlp_gain_D,
            gate_up,
            down,
            cos_TK,
            sin_TK,
        )
        ctx.eps = eps
        return y_BTD

    @staticmethod
    def backward(ctx: Any, dy_BTD: Tensor) -> tuple[Tensor | None, ...]:
        (
            x_BTD,
            mid_BTD,
            kept_qkv,
            attended,
            logsumexp,
            kept_gate_up,
            gain_D,
            query_gain,
            key_gain,
            qkv,
            output,
            mlp_gain_D,
            gate_up,
            down,
            cos_TK,
            sin_TK,
        ) = ctx.saved_tensors
        dy_BTD = dy_BTD.contiguous()
        batch, length, width = x_BTD.shape
        attention, mlp = block_libraries(x_BTD.dtype, 2 * cos_TK.shape[1])
        number = packed("f", ctx.eps)
        d_mid, dx = torch.empty_like(mid_BTD), torch.empty_like(x_BTD)
        zeros = [
            None if w is None else torch.zeros_like(w) for w in (gain_D, query_gain, key_gain, output, mlp_gain_D, down)
        ]
        d_gain, d_query_gain, d_key_gain, d_output, d_mlp_gain, d_down = zeros
        d_qkv, d_gate_up = torch.empty_like(qkv), torch.empty_like(gate_up)
        mlp.backward(
            packed("l", batch * length, width, down.shape[1]),
            number,
            packed("P", mlp_gain_D, gate_up, down),
            *map(address, (mid_BTD, kept_gate_up, dy_BTD)),
            packed("P", d_mid, d_mlp_gain, d_gate_up, d_down),
        )
        attention.backward(
            packed("l", batch, length, width),
            number,
            packed("P", gain_D, query_gain, key_gain, qkv, output, cos_TK, sin_TK),
            address(x_BTD),
            packed("P", kept_qkv, attended, logsumexp),
            address(d_mid),
            packed("P", dx, d_gain, d_query_gain, d_key_gain, d_qkv, d_output),
        )
        return dx, d_gain, d_query_gain, d_key_gain, d_qkv, d_output, d_mlp_gain, d_gate_up, d_down, None, None, None
