"""Training FLOPs per token: the law's own 6·N, and the exact count by part.

A multiply and an add are two FLOPs. A backward pass costs twice the forward: one product for the gradient of the
input, one for that of the weight. Only matrix products are counted, as in torch.utils.flop_counter, which the tests
hold these formulas against. Elementwise work (norms, softmax, RoPE, optimizer) is left out, as is usual.
"""

from __future__ import annotations

from dataclasses import dataclass

from .config import ModelConfig

FORWARD_AND_BACKWARD = 3


def six_n(n: int) -> int:
    """C per token of the law, 6·N (Kaplan et al. 2020, arXiv 2001.08361, section 2.1), in FLOPs."""
    return 6 * n


def causal_pairs(context: int, n_blocks: int | None = None) -> int:
    """Query-key pairs of one causal head over `context` tokens: T·(T + 1)/2.

    With `n_blocks`, the pairs that attention computed in that many row blocks touches, T²·(k + 1)/(2k).

    Raises:
        ValueError: if `n_blocks` does not divide `context`.
    """
    if n_blocks is None:
        return context * (context + 1) // 2
    if context % n_blocks:
        raise ValueError(f"{n_blocks} blocks do not divide a context of {context}")
    rows = context // n_blocks
    return sum(rows * rows * (i + 1) for i in range(n_blocks))


@dataclass(frozen=True)
class TrainingFlops:
    """Forward and backward FLOPs per trained token, by part."""

    embedding: float  # 0: a lookup, whose gradient is scattered, not multiplied
    attention: float  # scores and weighted values
    projections: float  # query, key, value, output
    mlp: float
    head: float

    @property
    def total(self) -> float:
        return self.embedding + self.attention + self.projections + self.mlp + self.head


def training_flops(config: ModelConfig, n_blocks: int | None = None) -> TrainingFlops:
    """Exact training FLOPs per token of a full context window.

    Attention is counted at the pairs that a causal mask leaves (half of what PaLM's appendix B counts, Chowdhery et
    al. 2022, arXiv 2204.02311), so the figure does not depend on the device's attention kernel; `n_blocks` counts
    what a blocked implementation multiplies instead.
    """
    layers, width = config.n_layers, config.d_model
    pairs_per_token = causal_pairs(config.context, n_blocks) / config.context
    return TrainingFlops(
        embedding=0.0,
        attention=FORWARD_AND_BACKWARD * layers * 4 * width * pairs_per_token,
        projections=FORWARD_AND_BACKWARD * layers * 8 * width * width,
        mlp=FORWARD_AND_BACKWARD * layers * 6 * width * config.d_ff,
        head=FORWARD_AND_BACKWARD * 2 * width * config.vocab_size,
    )
