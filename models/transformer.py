"""The transformer. Master weights are fp32; activations and products run in the dtype that the caller asks for.

Shape suffixes: B batch, T time (tokens), S keys in time, D d_model, H heads, K head_dim, F d_ff,
G gate and up side by side (2 d_ff), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import ModelConfig
from .cross_entropy import Gradients, NormedCrossEntropy, gradients_in_pieces, piece_of_cross_entropy

# Queries of a block on CPU. Products in fp32 take most of a step, so that half of the masked half is worth leaving out (LOG.md).
CPU_ATTENTION_ROWS = {torch.bfloat16: 256, torch.float32: 128}


class Linear(nn.Module):
    """A matrix kept in fp32 and multiplied in the dtype of its input."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(d_out, d_in))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


class RMSNorm(nn.Module):
    """Root-mean-square norm, computed in fp32 (Zhang & Sennrich 2019, arXiv 1910.07467)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x_fp32 = x.float()
        scale = torch.rsqrt(x_fp32.square().mean(-1, keepdim=True) + self.eps)
        return (x_fp32 * scale * self.gain).to(x.dtype)


def rope_tables(config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary embedding, each (context, head_dim / 2) (Su et al. 2021, arXiv 2104.09864)."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    angles = torch.outer(torch.arange(config.context, dtype=torch.float32), config.rope_theta**-exponents)
    return angles.cos(), angles.sin()


def rotate(x_BHTK: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> Tensor:
    """Rotates each pair (k, k + K/2) by its position's angle: Llama's half-split layout, so weights export unchanged."""
    first, second = x_BHTK.float().chunk(2, dim=-1)
    rotated = torch.cat((first * cos_TK - second * sin_TK, second * cos_TK + first * sin_TK), dim=-1)
    return rotated.to(x_BHTK.dtype)


def causal_attention(q_BHTK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, mask_TS: Tensor, rows: int) -> Tensor:
    """Causal attention in blocks of `rows` queries, each against only the keys that its last query may see.

    `mask_TS` is 0 where a key may be seen and -inf elsewhere: a table read is cheaper than comparing positions.
    """
    blocks = []
    length, scale = q_BHTK.shape[2], q_BHTK.shape[3] ** -0.5
    for start in range(0, length, rows):
        stop = min(start + rows, length)
        scores_BHTS = (q_BHTK[:, :, start:stop] * scale) @ k_BHSK[:, :, :stop].transpose(-1, -2)
        weights_BHTS = (scores_BHTS + mask_TS[start:stop, :stop]).softmax(-1)  # accumulates in fp32
        blocks.append(weights_BHTS @ v_BHSK[:, :, :stop])
    return torch.cat(blocks, dim=2)


class Positions(NamedTuple):
    """What a block needs to know of positions: rotary tables (T, head_dim / 2) and the causal mask (T, T)."""

    cos_TK: Tensor
    sin_TK: Tensor
    mask_TS: Tensor


class Attention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_heads, self.head_dim = config.n_heads, config.head_dim
        self.qkv = Linear(config.d_model, 3 * config.d_model)  # query, key and value stacked: one product, not three
        self.output = Linear(config.d_model, config.d_model)
        self.query_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()
        self.key_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()

    def forward(self, x_BTD: Tensor, at: Positions) -> Tensor:
        batch, length, width = x_BTD.shape
        q_BHTK, k_BHTK, v_BHTK = (
            self.qkv(x_BTD).view(batch, length, 3, self.n_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        )
        q_BHTK = rotate(self.query_norm(q_BHTK), at.cos_TK, at.sin_TK)
        k_BHTK = rotate(self.key_norm(k_BHTK), at.cos_TK, at.sin_TK)
        if x_BTD.is_cuda:
            y_BHTK = F.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, is_causal=True)
        else:
            rows = CPU_ATTENTION_ROWS.get(q_BHTK.dtype, length)
            y_BHTK = causal_attention(q_BHTK, k_BHTK, v_BHTK, at.mask_TS, rows)
        y_BTD: Tensor = self.output(y_BHTK.transpose(1, 2).reshape(batch, length, width))
        return y_BTD


class SwiGLU(nn.Module):
    """Gated MLP (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = Linear(config.d_model, 2 * config.d_ff)  # gate and up stacked: one product, not two
        self.down = Linear(config.d_ff, config.d_model)

    def forward(self, x_BTD: Tensor) -> Tensor:
        gate_BTF, up_BTF = self.gate_up(x_BTD).chunk(2, dim=-1)
        y_BTD: Tensor = self.down(gate_BTF * gate_BTF.sigmoid() * up_BTF)  # F.silu's gradient takes two exponentials
        return y_BTD


class Block(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = (RMSNorm(config.d_model, config.norm_eps) for _ in range(2))
        self.attention, self.mlp = Attention(config), SwiGLU(config)
        self.run: Run = run_block  # a trainer may have a faster one

    def forward(self, x_BTD: Tensor, at: Positions) -> Tensor:
        return self.run(self, x_BTD, at)


def run_block(block: Block, x_BTD: Tensor, at: Positions) -> Tensor:
    """The residual stream (B, T, D) after the block."""
    x_BTD = x_BTD + block.attention(block.attention_norm(x_BTD), at)
    out_BTD: Tensor = x_BTD + block.mlp(block.mlp_norm(x_BTD))
    return out_BTD


Run = Callable[[Block, Tensor, Positions], Tensor]


class Head(nn.Module):
    """Final norm, tied logits and cross-entropy; the loss is computed in fp32."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        self.gradients: Callable[..., Gradients] = partial(gradients_in_pieces, piece_of_cross_entropy)
        self.score: Score = score_head

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compiles the pieces of the loss, see `NormedCrossEntropy`, and the scores of evaluation."""
        self.gradients = partial(gradients_in_pieces, torch.compile(piece_of_cross_entropy, *args, **kwargs))
        self.score = torch.compile(score_head, *args, **kwargs)

    def logits(self, x_BTD: Tensor, embedding_VD: Tensor) -> Tensor:
        return F.linear(self.norm(x_BTD), embedding_VD.to(x_BTD.dtype)).float()

    def forward(self, x_BTD: Tensor, embedding_VD: Tensor, targets_BT: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
        """Objective and loss; see `NormedCrossEntropy`."""
        inputs = (x_BTD.flatten(0, 1), self.norm.gain, self.norm.eps, embedding_VD, targets_BT.flatten())
        objective, loss = NormedCrossEntropy.apply(*inputs, z_loss, self.gradients)  # type: ignore[no-untyped-call]
        return objective, loss


def score_head(head: Head, x_BTD: Tensor, embedding_VD: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Of each target, its negative log-likelihood in nats (fp32), and whether it is the argmax, the first of equals: (B, T)."""
    logits_BTV = head.logits(x_BTD, embedding_VD)
    target_logit_BT = logits_BTV.gather(-1, targets_BT.unsqueeze(-1)).squeeze(-1)
    return logits_BTV.logsumexp(-1) - target_logit_BT, logits_BTV.argmax(-1) == targets_BT


Score = Callable[[Head, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class Transformer(nn.Module):
    """Decoder-only language model; see `ModelConfig` for its shape and `flops` for its cost."""

    cos_TK: Tensor
    sin_TK: Tensor
    mask_TS: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Parameter(torch.empty(config.vocab_size, config.d_model))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.head = Head(config)
        cos, sin = rope_tables(config)
        self.register_buffer("cos_TK", cos, persistent=False)
        self.register_buffer("sin_TK", sin, persistent=False)
        mask = torch.full((config.context, config.context), float("-inf")).triu(1)
        self.register_buffer("mask_TS", mask, persistent=False)

    @torch.no_grad()
    def initialize(self, seed: int) -> None:
        """Fills every parameter from `seed` alone: the same weights on any device.

        Matrices are normal with variance 1/fan_in; those that write to the residual stream have a tenth of that
        deviation, so that blocks start near the identity and a token's own embedding is not drowned. The embedding,
        tied, has a deviation of 0.7/sqrt(d_model): 0.02 there cost 0.9 nats at 0.5M tokens (LOG.md).
        """
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(1.0)
                continue
            std = parameter.shape[1] ** -0.5
            if name == "embedding":
                std *= 0.7
            elif name.endswith(("output.weight", "down.weight")):
                std *= 0.1
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)

    def hidden(self, tokens_BT: Tensor, dtype: torch.dtype) -> Tensor:
        """The residual stream after the last block, (B, T, d_model)."""
        length = tokens_BT.shape[1]
        at = Positions(self.cos_TK[:length], self.sin_TK[:length], self.mask_TS[:length, :length].to(dtype))
        x_BTD = F.embedding(tokens_BT, self.embedding).to(dtype)
        for block in self.blocks:
            x_BTD = block(x_BTD, at)
        return x_BTD

    def forward(
        self, tokens_BT: Tensor, targets_BT: Tensor, dtype: torch.dtype, z_loss: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """What training lowers, and the mean loss in nats per token that is in it: fp32 scalars.

        The objective is the loss plus z_loss times the mean squared logsumexp of the logits; only it has a gradient.
        """
        objective, loss = self.head(self.hidden(tokens_BT, dtype), self.embedding, targets_BT, z_loss)
        return objective, loss

    def logits(self, tokens_BT: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Logits (B, T, V) in fp32."""
        return self.head.logits(self.hidden(tokens_BT, dtype), self.embedding)
