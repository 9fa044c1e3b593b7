"""From a target N to the nearest well-proportioned shape: every formula of the ladder, with its source and range.

    width d        one of WIDTHS, 32 to 4096: multiples of 16, then 32, then 64, so that heads fill it
    head_dim       64 from width 512; below, 32 where it divides the width, else 16            (`ModelConfig.from_shape`)
    d_ff           8/3 · d in multiples of 16: Shazeer 2020, arXiv 2002.05202                    (`ModelConfig.from_shape`)
    depth          2 to MAX_LAYERS; usual is d / depth = 16 · sqrt(d / 32)                              (`usual_ratio`)
    N_block        4·d² + 3·d·d_ff + 2·d: about the 12·d² of Kaplan et al. 2020, arXiv 2001.08361, section 2.1
    N              depth · N_block + d without the embedding, + vocabulary · d with it (`ModelConfig.n_total`)

Range: 20k to 10B non-embedding parameters. N never falls as its target grows. It misses the target by at most 20 % (only
below 100k, where two blocks of width 32 already have 24k), 13 % from 100k, 6 % from 10M and 4 % from 100M: the law is
fitted to the N that a run has, never to its target. Width over depth is a third to twice the usual; little is lost so: in
figure 5 of Kaplan et al. 6 layers of width 4288 come within 3 % of the loss of 48 layers of width 1600.
"""

from __future__ import annotations

import math
from functools import cache

from .config import ModelConfig

WIDTHS = [*range(32, 128, 16), *range(128, 512, 32), *range(512, 4097, 64)]
MAX_LAYERS = 64
SMALLEST, LARGEST = 20_000, 10_000_000_000
PROPORTION_WEIGHT = 0.1  # a shape twice too wide for its depth may miss its N by 7 % less
RUNG_STEPS = (1, 2, 5)


def usual_ratio(d_model: int) -> float:
    """Width over depth of a well-proportioned model: 16 at width 32, growing as the square root of the width.

    Somewhat wider than what labs published: 78 where GPT-2 has 768/12 = 64, 128 where GPT-3 XL has 2048/24 = 85.
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


def shape_for(target: int, vocab_size: int = 0) -> tuple[int, int]:
    """(n_layers, d_model) whose parameters come nearest to the target in log N, for a usual ratio.

    Non-embedding parameters, or with a `vocab_size` all of them, its (tied) embedding included.

    Raises:
        ValueError: the target lies outside the ladder (20k to 10B).
    """
    if not SMALLEST <= target <= LARGEST:
        counted = "parameters" if vocab_size else "non-embedding parameters"
        raise ValueError(f"N = {target:,} {counted} is outside the ladder: 20k to 10B")

    def badness(shape: tuple[int, int, int]) -> float:
        n, n_layers, d_model = shape
        off = abs(math.log((n + vocab_size * d_model) / target))
        return off + PROPORTION_WEIGHT * abs(math.log(d_model / n_layers / usual_ratio(d_model)))

    _, n_layers, d_model = min(_shapes(), key=badness)
    return n_layers, d_model


def rungs(smallest: int, largest: int) -> list[int]:
    """Targets 1, 2 and 5 of every decade within [smallest, largest].

    Raises:
        ValueError: the range leaves the ladder, or no target lies in it.
    """
    if not SMALLEST <= smallest <= largest <= LARGEST:
        raise ValueError(f"from {smallest:,} to {largest:,}: the ladder goes up from 20k to 10B")
    decades = range(len(str(largest)))
    targets = [step * 10**decade for decade in decades for step in RUNG_STEPS]
    inside = [target for target in targets if smallest <= target <= largest]
    if not inside:
        raise ValueError(f"from {smallest:,} to {largest:,}: no rung (1, 2 or 5 of a decade) lies between")
    return inside
