"""What a careful reader should know about a fit: each check is a function that returns a Verdict, or None when all is well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .laws import Array

Mask = npt.NDArray[np.bool_]
Refit = Callable[[Array], Array]  # row weights (S, n) -> params (S, 5) in the order A, B, E, alpha, beta

FEW_RUNS = 10
WIDE_A = 0.1
COLLINEAR = 0.97
OUTLIER_SIGMAS = 6.0
EXPONENTS = ((3, "alpha"), (4, "beta"))
LEAVE_ONE_OUT_ROWS = 1000  # in larger tables one run moves nothing, and refitting without each is slow


@dataclass(frozen=True)
class Verdict:
    """One thing that a careful reader of a fit should know: a stable `code` and a `message` in plain words."""

    code: str
    message: str


def few_runs(N: Array, D: Array) -> Verdict | None:
    """Fewer than 10 runs, or fewer than 3 different N or D, for five parameters."""
    n, sizes, lengths = len(N), len(np.unique(N)), len(np.unique(D))
    if n >= FEW_RUNS and min(sizes, lengths) >= 3:
        return None
    return Verdict(
        "few_runs", f"{n} runs with {sizes} different N and {lengths} different D are few for five parameters"
    )


def no_intervals(count: int) -> Verdict | None:
    if count == 0:
        return Verdict("no_intervals", "without a bootstrap there are no standard errors and no intervals")
    if count < 200:
        return Verdict("no_intervals", f"{count} bootstrap resamples are too few for 95 % intervals; use 1000")
    return None


def exponent_unidentified(
    N: Array, D: Array, params: Array, a_ci95: tuple[float, float] | None, samples: Array, refit: Refit, bound: float
) -> Verdict | None:
    """The interval of a is wide, an exponent ends at its bound, or one leaves its interval when the smallest D or N is dropped."""
    reasons = []
    wide = a_ci95 is not None and not a_ci95[1] - a_ci95[0] <= WIDE_A
    if a_ci95 is not None and wide:
        reasons.append(f"the 95 % interval of a is [{a_ci95[0]:.3f}, {a_ci95[1]:.3f}], wider than {WIDE_A}")
    for index, name in EXPONENTS:
        if params[index] <= 1e-6 or params[index] >= bound - 1e-6:
            reasons.append(f"{name} ends at its bound {params[index]:.3g}")
    if len(samples):
        for word, kept in (("D", _without_smallest(D)), ("N", _without_smallest(N))):
            if _enough(N, D, kept):
                reasons += _moves(params, samples, refit, word, kept, significant_only=not wide)
    return (
        Verdict("exponent_unidentified", "the exponents are not pinned down: " + "; ".join(reasons))
        if reasons
        else None
    )


def _moves(params: Array, samples: Array, refit: Refit, word: str, kept: Mask, *, significant_only: bool) -> list[str]:
    """Which exponents leave their interval on the kept runs; those within two of their standard errors there may be chance."""
    there = refit(kept[None].astype(np.float64))[0]
    limits = np.percentile(samples, [2.5, 97.5], axis=0)
    moved = [(i, name) for i, name in EXPONENTS if not limits[0, i] <= there[i] <= limits[1, i]]
    if moved and significant_only:
        again = np.random.default_rng(0).multinomial(kept.sum(), kept / kept.sum(), size=100).astype(np.float64)
        error = refit(again).std(axis=0, ddof=1)
        moved = [(i, name) for i, name in moved if abs(there[i] - params[i]) > 2 * error[i]]
    return [
        f"without the {(~kept).sum()} runs of smallest {word} {name} moves from {params[i]:.3f} to {there[i]:.3f},"
        f" outside its 95 % interval [{limits[0, i]:.3f}, {limits[1, i]:.3f}]"
        for i, name in moved
    ]


def E_unidentified(E: float, samples: Array) -> Verdict | None:
    """The irreducible loss reaches zero, or its interval is wider than half of it."""
    if not len(samples):
        return Verdict("E_unidentified", "E is zero: the runs show no irreducible loss") if E == 0 else None
    low, high = np.percentile(samples[:, 2], [2.5, 97.5])
    if low > 0.05 * E and high - low <= 0.5 * E:
        return None
    return Verdict(
        "E_unidentified",
        f"the irreducible loss is not pinned down: E = {E:.3g}, 95 % interval [{low:.3g}, {high:.3g}]; the losses are far above it",
    )


def not_separable(N: Array, D: Array) -> Verdict | None:
    """log N and log D nearly collinear, as at a fixed number of tokens per parameter."""
    correlation = float(np.corrcoef(np.log(N), np.log(D))[0, 1])
    if abs(correlation) < COLLINEAR:
        return None
    return Verdict(
        "alpha_beta_not_separable",
        f"N and D vary together (correlation of their logs {correlation:.3f}): the runs cannot tell alpha from beta;"
        " add runs at other tokens per parameter",
    )


def outlier(N: Array, D: Array, residuals: Array) -> Verdict | None:
    """Runs farther from the law than six robust standard deviations (1.4826 times the median absolute residual)."""
    size = np.abs(residuals)
    # Near the L1 norm the curve passes through as many runs as it has parameters: their zeros say nothing about the noise.
    scale = max(1.4826 * float(np.median(np.sort(size)[5:])), 1e-6)
    far = int((size > OUTLIER_SIGMAS * scale).sum())
    if not far:
        return None
    worst = int(np.argmax(size))
    runs = "1 run lies" if far == 1 else f"{far} runs lie"
    return Verdict(
        "outlier",
        f"{runs} more than {OUTLIER_SIGMAS:g} robust standard deviations off the law; the farthest is {_name(N, D, worst)},"
        f" {np.expm1(residuals[worst]):+.1%} of the fitted loss",
    )


def influential_run(N: Array, D: Array, a: float, refit: Refit) -> Verdict | None:
    """One run alone makes up more than half of the jackknife variance of a, and moves a by more than 0.01."""
    n = len(N)
    if n > LEAVE_ONE_OUT_ROWS:
        return None
    without = refit(1.0 - np.eye(n))
    moved = without[:, 4] / np.maximum(without[:, 3] + without[:, 4], 1e-12) - a
    worst = int(np.argmax(np.abs(moved)))
    if not (moved[worst] ** 2 > 0.5 * (moved**2).sum() and abs(moved[worst]) > 0.01):
        return None
    return Verdict("influential_run", f"without {_name(N, D, worst)} a is {a + moved[worst]:.3f} instead of {a:.3f}")


def rows_set_aside(reasons: tuple[str, ...]) -> Verdict | None:
    return Verdict("rows_set_aside", "; ".join(reasons)) if reasons else None


def extrapolation(name: str, value: float, low: float, high: float) -> Verdict | None:
    """A prediction at `value` when the fitted runs span low to high."""
    if not low * 0.9 <= value <= high * 1.1:
        far, side, end = (
            (value / high, "above the largest", high) if value > high else (low / value, "below the smallest", low)
        )
        return Verdict(
            "extrapolation", f"{name} = {value:.3g} is {np.log10(far):.1f} decades {side} {name} of the fit ({end:.3g})"
        )
    return None


def _without_smallest(values: Array) -> Mask:
    """All but the runs at the smallest value, and at least the smallest tenth."""
    return np.asarray(values > max(float(values.min()), float(np.quantile(values, 0.1))), dtype=np.bool_)


def _enough(N: Array, D: Array, kept: Mask) -> bool:
    return bool(kept.sum() >= 6 and min(len(np.unique(N[kept])), len(np.unique(D[kept]))) >= 2)


def _name(N: Array, D: Array, run: int) -> str:
    return f"run {run + 1} of the table (N = {N[run]:.3g}, D = {D[run]:.3g})"
