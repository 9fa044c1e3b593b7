"""From a target N to the nearest well-proportioned shape."""

from __future__ import annotations

import math
from functools import cache

from .config import ModelConfig

WIDTHS = [*range(32, 128, 16), *range(128, 512, 32), *range(512, 4097, 64)]
MAX_LAYERS = 64
PROPORTION_WEIGHT = 0.1  # a shape twice too wide for its depth may miss its N by 7 % less


def usual_ratio(d_model: int) -> float:
    """Width over depth of a well-proportioned model: 16 at width 32, growing as the square root of the width.

    It meets the families that labs published: 64 against GPT-2's 768/12, 128 against GPT-3's 2048/24.
    """
    return 16 * math.sqrt(d_model / 32)


@cache
def _shapes() -> list[tuple[int, int, int]]:
    shapes = []
    for d_model in WIDTHS:
        for n_layers in range(2, MAX_LAYERS + 1):
            n = ModelConfig.from_shape(n_layers, d_model, vocab_size=2).n_non_embedding
            shapes.append((n, n_layers, d_model))
    return shapes


def shape_for(n_non_embedding: int) -> tuple[int, int]:
    """(n_layers, d_model) whose non-embedding parameters come nearest to the target in log N.

    Raises:
        ValueError: the target lies outside the ladder (20k to 10B).
    """
    if not 20_000 <= n_non_embedding <= 10_000_000_000:
        raise ValueError(f"N = {n_non_embedding:,} non-embedding parameters is outside the ladder: 20k to 10B")

    def badness(shape: tuple[int, int, int]) -> float:
        n, n_layers, d_model = shape
        off = abs(math.log(n / n_non_embedding))
        return off + PROPORTION_WEIGHT * abs(math.log(d_model / n_layers / usual_ratio(d_model)))

    _, n_layers, d_model = min(_shapes(), key=badness)
    return n_layers, d_model
