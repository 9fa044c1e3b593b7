"""The data wall: the compute at which D*(C) exceeds the stock of unique tokens, and what repeating them gives beyond it.

Beyond the wall the law is that of Muennighoff et al. 2023 (arXiv 2305.16264, appendix A):
L = A/N'^alpha + B/D'^beta + E, with D' = U + U R_D* (1 - exp(-R_D/R_D*)), R_D = D/U - 1, for U unique tokens, and likewise
N' = U_N + U_N R_N* (1 - exp(-R_N/R_N*)), R_N = N/U_N - 1, where U_N is the compute-optimal N of U tokens, or N where that is smaller.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..laws import FLOPS_PER_PARAMETER_AND_TOKEN, Array, FitError
from ..plain import plain_fields
from .frontier import check_optimum, lowest, optima
from .overtrain import band

R_D_STAR, R_N_STAR = 15.387756, 5.309743  # Muennighoff et al. 2023, appendix A, fitted on C4
BEYOND = np.array([1.0, 10.0, 100.0, 1000.0])  # budgets over that of the wall
SPLITS = 400  # of log D between one epoch and the optimal N of the unique tokens
ASSUMPTIONS = (
    f"R_D* = {R_D_STAR} and R_N* = {R_N_STAR} are those that Muennighoff et al. 2023 (arXiv 2305.16264) fitted on C4,"
    " not measured on these runs, and the bands leave out their error"
)


@dataclass(frozen=True)
class Stock:
    """Unique tokens to train on, from low to high, as of `year`, growing by the share `growth` a year."""

    low: float
    high: float
    growth: float
    year: float
    source: str

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high < np.inf:
            raise FitError(
                f"stock: unique tokens must be positive, low before high, not {self.low:g} and {self.high:g}"
            )
        if not -1 < self.growth < np.inf:
            raise FitError(f"stock: growth is a share a year, such as 0.07, not {self.growth:g}")


def stock_of_words(low: float, high: float, growth: float, year: float, source: str, tokens_per_word: float) -> Stock:
    """A stock counted in words."""
    said = (
        f"{low:.2g} to {high:.2g} words, {tokens_per_word:.3g} tokens a word, growing {growth:.0%} a year from {year:g}"
    )
    return Stock(low * tokens_per_word, high * tokens_per_word, growth, year, f"{source}: {said}")


# A token is about three quarters of an English word for the usual vocabularies of 50k to 100k; small vocabularies cut words finer.
HIGH_QUALITY_TEXT = stock_of_words(
    4.6e12, 17e12, 0.07, 2022.0, "high-quality text (Villalobos et al. 2022, arXiv 2211.04325)", 4 / 3
)


@dataclass(frozen=True)
class ComputeTrend:
    """The compute of one training run: `flops` in `year`, `growth` times as much every year."""

    flops: float
    year: float
    growth: float

    def __post_init__(self) -> None:
        if not (0 < self.flops < np.inf and 0 < self.growth < np.inf):
            raise FitError(
                f"trend: flops and growth (times a year) must be positive, not {self.flops:g}, {self.growth:g}"
            )


@dataclass(frozen=True)
class Repeating:
    """The best training at budgets C (k,) with `unique_tokens`, each repeated `epochs` times, beside that with unlimited data.

    Bands (k, 2) are 95 % percentiles, None without samples.
    """

    C: Array
    N: Array
    D: Array
    epochs: Array
    epochs_ci95: Array | None
    loss: Array
    loss_ci95: Array | None
    loss_unlimited: Array
    price: Array  # loss - loss_unlimited: what the lack of data costs, nats per token
    price_ci95: Array | None


@dataclass(frozen=True)
class Wall:
    """Where one stock of unique tokens ends: C with D*(C) = unique_tokens, N* there, and what lies beyond.

    `year` is None without a trend, and infinite where the stock outgrows the need for it.
    """

    unique_tokens: float
    C: float
    C_ci95: Array | None
    N: float
    year: float | None
    year_ci95: Array | None
    least_loss: float  # by repeating and enlarging without end
    repeating: Repeating


@dataclass(frozen=True)
class DataWall:
    """The wall of the low and of the high end of a stock, at the size that it has in its own year."""

    stock: Stock
    low: Wall
    high: Wall
    assumptions: str

    def to_json(self) -> dict[str, object]:
        """The fields as nested dictionaries; null for an infinite year or compute."""
        return plain_fields(self)


def data_wall(
    params: Array,
    samples: Array,
    stock: Stock = HIGH_QUALITY_TEXT,
    trend: ComputeTrend | None = None,
    beyond: Array = BEYOND,
) -> DataWall:
    """The data wall of params (5,) A, B, E, alpha, beta with bands from samples (S, 5), S may be 0; N in parameters, D in tokens.

    `beyond` (k,): the budgets at which repeating is worked out, times that of the wall. Raises FitError where the law has no optimum.
    """
    check_optimum(params)
    low, high = (_wall(params, samples, U, stock, trend, beyond) for U in (stock.low, stock.high))
    return DataWall(stock, low, high, ASSUMPTIONS)


def wall_compute(params: Array, unique_tokens: float) -> Array:
    """C (S,) at which D*(C) = unique_tokens, for params (S, 5): 6 N U with alpha A/N^alpha = beta B/U^beta."""
    with np.errstate(all="ignore"):
        return np.asarray(FLOPS_PER_PARAMETER_AND_TOKEN * unique_tokens * _partner(params, unique_tokens))


def repeating(params: Array, samples: Array, unique_tokens: float, C: Array) -> Repeating:
    """The best N, D and loss at budgets C (k,) FLOPs with `unique_tokens`, repeated or not as is best."""
    N, D, loss = (values[0] for values in _best(params[None], unique_tokens, C))
    unlimited = optima(params[None], C)[2][0]
    bands: list[Array | None] = [None] * 3
    if len(samples):
        _, lengths, losses = _best(samples, unique_tokens, C)
        prices = losses - optima(samples, C)[2]
        bands = [band(values) for values in (np.maximum(lengths / unique_tokens, 1.0), losses, prices)]
    epochs = np.maximum(D / unique_tokens, 1.0)
    return Repeating(C, N, D, epochs, bands[0], loss, bands[1], unlimited, loss - unlimited, bands[2])


def constrained_loss(params: Array, N: Array, D: Array, unique_tokens: float) -> Array:
    """L of the data-constrained law (S, k) for params (S, 5) and N, D that broadcast to (S, k); D <= unique_tokens are all unique."""
    A, B, E, alpha, beta = (params[:, i : i + 1] for i in range(5))
    with np.errstate(all="ignore"):
        most = _partner(params, unique_tokens)[:, None]
        effective_N = _effective(N, most, R_N_STAR)
        effective_D = _effective(D, np.asarray(unique_tokens), R_D_STAR)
        return np.asarray(A * effective_N**-alpha + B * effective_D**-beta + E)


def _effective(amount: Array, unique: Array, r_star: float) -> Array:
    repeats = np.maximum(amount / unique - 1.0, 0.0)
    return np.asarray(np.minimum(amount, unique) * (1.0 - r_star * np.expm1(-repeats / r_star)))


def _partner(params: Array, D: float) -> Array:
    """The N of which D is the compute-optimal number of tokens: (S,)."""
    A, B, _, alpha, beta = params.T
    return np.asarray(np.exp((np.log(alpha * A / (beta * B)) + beta * np.log(D)) / alpha))


def _best(params: Array, unique_tokens: float, C: Array) -> tuple[Array, Array, Array]:
    """N, D and loss at the best split of C (k,), each (S, k); within the wall that of the law itself.

    Beyond the wall it lies between one epoch with all else in N, and U_N with all else in epochs: at both ends moving inwards gains.
    """
    N, D, loss, _ = (values.copy() for values in optima(params, C))
    walls = wall_compute(params, unique_tokens)
    for k, total in enumerate(C):
        out = np.flatnonzero(total > walls)
        if not len(out):
            continue
        step = np.log(total / walls[out]) / SPLITS
        log_epochs = step[:, None] * np.arange(SPLITS + 1)
        tokens = unique_tokens * np.exp(log_epochs)
        sizes = total / (FLOPS_PER_PARAMETER_AND_TOKEN * tokens)
        at, loss[out, k] = lowest(np.zeros(len(out)), step, constrained_loss(params[out], sizes, tokens, unique_tokens))
        D[out, k] = unique_tokens * np.exp(at)
        N[out, k] = total / (FLOPS_PER_PARAMETER_AND_TOKEN * D[out, k])
    return N, D, loss


def _wall(params: Array, samples: Array, U: float, stock: Stock, trend: ComputeTrend | None, beyond: Array) -> Wall:
    C = wall_compute(params[None], U)
    resampled = wall_compute(samples, U)
    A, B, E, alpha, beta = params
    N = float(_partner(params[None], U)[0])
    return Wall(
        unique_tokens=U,
        C=float(C[0]),
        C_ci95=band(resampled) if len(samples) else None,
        N=N,
        year=float(_year(params[None], C, stock, trend)[0]) if trend else None,
        year_ci95=band(_year(samples, resampled, stock, trend)) if trend and len(samples) else None,
        least_loss=float(A * (N * (1 + R_N_STAR)) ** -alpha + B * (U * (1 + R_D_STAR)) ** -beta + E),
        repeating=repeating(params, samples, U, C[0] * beyond),
    )


def _year(params: Array, C: Array, stock: Stock, trend: ComputeTrend) -> Array:
    """When the compute reaches the wall (S,), which moves as U^(1 + beta/alpha) while the stock grows; infinite for never."""
    with np.errstate(all="ignore"):
        wall_speed = (1 + params[:, 4] / params[:, 3]) * np.log1p(stock.growth)
        ahead = np.log(C / trend.flops) + wall_speed * (trend.year - stock.year)
        speed = np.log(trend.growth) - wall_speed
        return np.asarray(np.where(speed > 0, trend.year + ahead / speed, np.where(ahead <= 0, trend.year, np.inf)))
