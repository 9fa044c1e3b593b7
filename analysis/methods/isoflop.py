"""IsoFLOP parabolas, the second method of Hoffmann et al. 2022 (arXiv 2203.15556, section 3.2), and how far they are biased.

At each budget log L is a parabola in log N; its vertex is N*(C), and a straight line through the vertices on log-log axes gives a. The
parabola is only the start of a Taylor series: on wide or off-centre ranges of N, and where alpha != beta, the vertex is not the
optimum even without noise (Czech et al. 2026, arXiv 2603.22339). `parabola_bias` measures that on the runs' own grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..laws import Array, FitError

TOLERANCE = 0.1  # runs whose C differ by less than 10 % are of one budget
WIDTH = (
    6.0  # the parabola sees N within this factor of the best run's: wider ranges bend it (arXiv 2603.22339, section 3)
)
FEWEST_SIZES = 4  # a parabola through three would leave no residual

Predict = Callable[[Array, Array], Array]  # N (k,), D (k,) -> loss (k,)


@dataclass(frozen=True)
class Parabola:
    """One budget: log L = c0 + c1 u + c2 u^2 with u = log N - centre, over the runs `rows` of the table."""

    C: float  # FLOPs, the geometric mean of its runs
    rows: npt.NDArray[np.intp]
    centre: float
    coefficients: Array  # (3,): c0, c1, c2
    N: float  # at the vertex
    D: float
    loss: float

    def curve(self, N: Array) -> Array:
        """The parabola's loss at N (k,)."""
        u = np.log(N) - self.centre
        return np.exp(np.polynomial.polynomial.polyval(u, self.coefficients))


@dataclass(frozen=True)
class IsoFlop:
    """N*(C) ~ C^a through the vertices; intervals are None without a bootstrap, samples (S, 2) hold a and log N* at C = 1."""

    parabolas: tuple[Parabola, ...]
    a: float
    log_n1: float  # log N* = log_n1 + a log C
    a_ci95: tuple[float, float] | None
    samples: Array
    set_aside: tuple[str, ...]  # one plain line per budget that gave no optimum


@dataclass(frozen=True)
class Bias:
    """What the parabolas find on a noiseless law at the runs' N and D, minus what that law has."""

    a: float  # to subtract from the parabolas' a
    log_N: Array  # (k,), error of log N* at each budget
    a_law: float


def isoflop(
    N: Array,
    D: Array,
    loss: Array,
    *,
    C: Array | None = None,
    tolerance: float = TOLERANCE,
    width: float = WIDTH,
    bootstrap: int = 1000,
    seed: int = 0,
) -> IsoFlop:
    """The parabolas of runs N, D, loss (n,) grouped by C (n,) in FLOPs, 6 N D if not given, and the line through their vertices.

    Budgets with fewer than four sizes, or whose vertex is no minimum inside its runs, are set aside. The interval is that of a residual
    bootstrap within each budget (leverage-corrected residuals drawn with replacement), since a budget's few runs leave no resample of runs.
    Raises FitError when fewer than two budgets remain.
    """
    cost = 6.0 * N * D if C is None else C
    parabolas, set_aside = [], []
    for rows in budgets(cost, tolerance):
        found = _parabola(N, D, loss, cost, _near(N, loss, rows, width))
        if isinstance(found, str):
            set_aside.append(found)
        else:
            parabolas.append(found)
    if len(parabolas) < 2:
        why = f": {set_aside[0]}" if set_aside else ""
        raise FitError(
            f"IsoFLOP needs at least 2 budgets, each of at least {FEWEST_SIZES} sizes N at one C (within {tolerance:.0%})"
            f" around the lowest loss; the table has {len(parabolas)}{why}"
        )
    log_c = np.log([p.C for p in parabolas])
    line = np.polyfit(log_c, np.log([p.N for p in parabolas]), 1)
    samples = _resample(parabolas, N, loss, log_c, bootstrap, np.random.default_rng(seed))
    ends = np.nanpercentile(samples[:, 0], [2.5, 97.5]) if len(samples) else None
    return IsoFlop(
        parabolas=tuple(parabolas),
        a=float(line[0]),
        log_n1=float(line[1]),
        a_ci95=None if ends is None else (float(ends[0]), float(ends[1])),
        samples=samples,
        set_aside=tuple(set_aside),
    )


def parabola_bias(fit: IsoFlop, N: Array, D: Array, predict: Predict) -> Bias:
    """The bias of `fit` if `predict` were the truth: its parabolas on the noiseless losses of the same runs, against the law's optimum."""
    log_c = np.log([p.C for p in fit.parabolas])
    vertices, optima = [], []
    for parabola in fit.parabolas:
        at = parabola.rows
        u = np.log(N[at]) - parabola.centre
        _, c1, c2 = np.linalg.pinv(_powers(u)) @ np.log(predict(N[at], D[at]))
        vertices.append(parabola.centre - c1 / (2 * c2) if c2 > 0 else np.nan)
        optima.append(_optimum(predict, float(np.log(N[at] * D[at]).mean()), parabola.centre))
    error = np.array(vertices) - np.array(optima)
    known = np.isfinite(error)
    if known.sum() < 2:
        raise FitError("the law has no compute-optimal N at the budgets of the IsoFLOP parabolas")
    a_law = float(np.polyfit(log_c[known], np.array(optima)[known], 1)[0])
    return Bias(float(np.polyfit(log_c[known], error[known], 1)[0]), error, a_law)


def budgets(C: Array, tolerance: float = TOLERANCE) -> list[npt.NDArray[np.intp]]:
    """The rows of each budget, by C (n,): runs chained by less than `tolerance` in log C, if all lie within twice that."""
    order = np.argsort(C, kind="stable")
    log_c = np.log(C[order])
    groups = np.split(order, np.flatnonzero(np.diff(log_c) > np.log1p(tolerance)) + 1)
    return [rows for rows in groups if np.ptp(np.log(C[rows])) <= 2 * np.log1p(tolerance)]


def _near(N: Array, loss: Array, rows: npt.NDArray[np.intp], width: float) -> npt.NDArray[np.intp]:
    best = N[rows[np.argmin(loss[rows])]]
    return np.asarray(rows[np.abs(np.log(N[rows] / best)) <= np.log(width) + 1e-9])


def _parabola(N: Array, D: Array, loss: Array, C: Array, rows: npt.NDArray[np.intp]) -> Parabola | str:
    """The parabola through the runs `rows`, or why there is none."""
    budget = float(np.exp(np.log(C[rows]).mean()))
    x, sizes = np.log(N[rows]), len(np.unique(N[rows]))
    if sizes < FEWEST_SIZES:
        return f"budget {budget:.3g} FLOPs: {sizes} sizes N near its lowest loss are too few for a parabola"
    centre = float(x.mean())
    c0, c1, c2 = np.linalg.pinv(_powers(x - centre)) @ np.log(loss[rows])
    vertex = centre - c1 / (2 * c2) if c2 > 0 else np.nan
    if not x.min() <= vertex <= x.max():
        return f"budget {budget:.3g} FLOPs: no optimum inside its sizes N = {N[rows].min():.3g} to {N[rows].max():.3g}"
    n = float(np.exp(vertex))
    d = float(np.exp(np.log(N[rows] * D[rows]).mean())) / n
    return Parabola(
        budget, rows, centre, np.array([c0, c1, c2]), n, d, float(np.exp(c0 + 0.5 * c1 * (vertex - centre)))
    )


def _resample(
    parabolas: Sequence[Parabola], N: Array, loss: Array, log_c: Array, count: int, rng: np.random.Generator
) -> Array:
    """(count, 2): a and log N* at C = 1 of parabolas refitted to fitted loss + drawn residuals r/sqrt(1 - leverage)."""
    vertices = np.empty((count, len(parabolas)))
    for k, p in enumerate(parabolas):
        u = np.log(N[p.rows]) - p.centre
        basis = _powers(u)
        inverse = np.linalg.pinv(basis)
        leverage = np.sum(basis * inverse.T, axis=1)
        errors = (np.log(loss[p.rows]) - basis @ p.coefficients) / np.sqrt(np.maximum(1 - leverage, 0.05))
        drawn = p.coefficients + rng.choice(errors - errors.mean(), size=(count, len(u))) @ inverse.T
        with np.errstate(divide="ignore", invalid="ignore"):
            vertex = -drawn[:, 1] / (2 * drawn[:, 2])
        inside = (drawn[:, 2] > 0) & (vertex >= u.min()) & (vertex <= u.max())  # as in the fit itself
        vertices[:, k] = np.where(inside, p.centre + vertex, np.nan)
    known = np.isfinite(vertices)
    mean_c = np.where(known, log_c, 0).sum(1, keepdims=True) / np.maximum(known.sum(1, keepdims=True), 1)
    lever = np.where(known, log_c - mean_c, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        a = (lever * np.where(known, vertices, 0.0)).sum(1) / (lever**2).sum(1)
    mean_n = np.where(known, vertices, 0.0).sum(1) / np.maximum(known.sum(1), 1)
    return np.column_stack([a, mean_n - a * mean_c[:, 0]])


def _optimum(predict: Predict, log_nd: float, centre: float) -> float:
    """log N of the law's lowest loss where log N + log D = log_nd, searched within a factor e^15 of `centre`; nan if at an end."""
    middle, half = centre, 15.0
    for _ in range(6):
        x = np.linspace(middle - half, middle + half, 121)
        y = predict(np.exp(x), np.exp(log_nd - x))
        best = int(np.argmin(y))
        if best in (0, len(x) - 1):
            return float("nan")
        middle, half = float(x[best]), 2 * float(x[1] - x[0])
    return middle


def _powers(u: Array) -> Array:
    return np.stack([np.ones_like(u), u, u * u], axis=1)
