"""Verdicts on whether the runs pin the law down: exponents, the irreducible loss, one optimum or several."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..laws import Array
from .verdict import Refit, Verdict

Mask = npt.NDArray[np.bool_]

WIDE_A = 0.1
COLLINEAR = 0.97
EXPONENTS = ((3, "alpha"), (4, "beta"))
AS_GOOD = 1.92  # half the 95 % point of chi-squared with one degree of freedom
A_DIFFERS = 0.02
FEWEST_SAMPLES = 200  # too few resamples have modes by chance
SMALLEST_MODE = 0.1  # of the resamples
VALLEY = 0.5  # of the lower mode's density


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


def multimodal(a: Array, objectives: Array, n: int, samples_a: Array) -> Verdict | None:
    """Another optimum explains the runs as well with another a, or the bootstrap's a has two modes.

    a (k,) and objectives (k,) of the leading optima, best first; n runs; samples_a (S,), S may be 0. As good is an optimum that a
    likelihood-ratio test does not tell from the best: n log(objective / best) < 1.92, with Laplace errors of unknown scale, which is
    what a Huber loss of small delta stands for. Modes count if each holds a tenth of the resamples and the density between them falls
    below half of the lower one, smoothed by Silverman's bandwidth (Silverman 1986, equation 3.31).
    """
    reasons = []
    as_good = objectives <= objectives[0] * np.exp(AS_GOOD / n)
    far = a[as_good & (np.abs(a - a[0]) > A_DIFFERS)]
    if len(far):
        others = ", ".join(f"{value:.3f}" for value in np.unique(np.round(far, 3)))
        reasons.append(f"other optima fit the runs as well as the best one, at a = {others} instead of {a[0]:.3f}")
    modes = two_modes(samples_a)
    if modes is not None:
        low, high, share = modes
        reasons.append(f"a of the bootstrap has two modes, near {low:.3f} ({share:.0%} of resamples) and {high:.3f}")
    if not reasons:
        return None
    return Verdict("multimodal", "; ".join(reasons) + ": one interval does not describe a")


def two_modes(samples: Array) -> tuple[float, float, float] | None:
    """The two highest modes of samples (S,), lower first, and the share of samples on the lower one's side; None for one mode."""
    values = np.sort(samples[np.isfinite(samples)])
    if len(values) < FEWEST_SAMPLES:
        return None
    quarter = float(np.subtract(*np.percentile(values, [75, 25])) / 1.349)
    spread = min(float(values.std()), quarter) or float(values.std())
    low, high = np.percentile(values, [0.5, 99.5])
    if spread < 1e-9 or high - low < A_DIFFERS:
        return None
    bandwidth = 0.9 * spread * len(values) ** -0.2
    cells = int(np.clip((high - low) / bandwidth * 8, 64, 4096))
    counts, edges = np.histogram(values, bins=cells, range=(low, high))
    centres, width = (edges[1:] + edges[:-1]) / 2, float(edges[1] - edges[0])
    reach = np.arange(-int(4 * bandwidth / width) - 1, int(4 * bandwidth / width) + 2) * width
    density = np.convolve(counts, np.exp(-0.5 * (reach / bandwidth) ** 2))[len(reach) // 2 :][:cells]
    peaks = np.flatnonzero((density >= np.roll(density, 1)) & (density > np.roll(density, -1)))
    for first, second in _pairs(peaks[np.argsort(-density[peaks], kind="stable")][:8]):
        between = first + int(np.argmin(density[first : second + 1]))
        share = float((values < centres[between]).mean())
        deep = density[between] < VALLEY * min(density[first], density[second])
        apart = centres[second] - centres[first] > A_DIFFERS
        if deep and apart and SMALLEST_MODE <= share <= 1 - SMALLEST_MODE:
            return float(centres[first]), float(centres[second]), share
    return None


def _pairs(peaks: npt.NDArray[np.intp]) -> list[tuple[int, int]]:
    """Pairs of peaks from left to right, those with the highest peak first."""
    return [(min(i, j), max(i, j)) for k, i in enumerate(peaks.tolist()) for j in peaks[k + 1 :].tolist()]


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


def _without_smallest(values: Array) -> Mask:
    """All but the runs at the smallest value, and at least the smallest tenth."""
    return np.asarray(values > max(float(values.min()), float(np.quantile(values, 0.1))), dtype=np.bool_)


def _enough(N: Array, D: Array, kept: Mask) -> bool:
    return bool(kept.sum() >= 6 and min(len(np.unique(N[kept])), len(np.unique(D[kept]))) >= 2)
