"""The envelope of training curves: the first method of Hoffmann et al. 2022 (arXiv 2203.15556, section 3.1).

At each C the lowest loss that any run has reached by then, and the N and D that reach it; straight lines through those on log-log axes
and L*(C) = E + K C^-gamma. Caution: on a schedule with a cooldown, a point before the end of its run lies above a run that ends there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..laws import Array, FitError
from ..tables.table import TableError

PER_DECADE = 20
ZOOMS = 7
MARGIN = 2.0
AT_ONCE = 1 << 22  # elements of one (resamples, runs, budgets) array
COLUMNS = ("a", "log_n1", "b", "log_d1", "E", "K", "gamma")


@dataclass(frozen=True)
class Curves:
    """Points of training curves, arrays of shape (m,): the label of the run, N parameters, D tokens so far, loss in nats per token."""

    run: npt.NDArray[np.intp]
    N: Array
    D: Array
    loss: Array


@dataclass(frozen=True)
class Envelope:
    """The envelope at C (k,) and the laws through it; each interval is None without a bootstrap.

    Budgets whose best N nears the smallest or the largest of the runs are left out: there the range of sizes, not the loss, chose N.
    `share_at_edge` says how many were.
    """

    C: Array
    N: Array
    D: Array
    loss: Array
    run: npt.NDArray[np.intp]  # whose curve attains the point
    a: float
    b: float
    E: float
    K: float
    gamma: float
    ci95: dict[str, tuple[float, float]] | None  # a, log_n1, b, log_d1, E, K, gamma
    samples: Array  # (S, 7) in that order
    share_at_edge: float
    cooldown_gap: (
        float | None
    )  # median log loss of passing curves over runs that end at the same N and D; None: no such pair


def curves_of(frame: pd.DataFrame, n_col: str = "N_total", curve_col: str = "curve", source: str = "table") -> Curves:
    """The curves in a ledger's rows: column `curve` holds [[tokens, loss, se], ...], as JSON or as a list.

    Rows without a curve are passed over. Raises TableError for a column that is missing or cannot be read, or when no row has a curve.
    """
    for column in (n_col, curve_col):
        if column not in frame.columns:
            raise TableError(f"{source}: there is no column {column!r}; training curves need {n_col} and {curve_col}")
    runs, sizes, points = [], [], []
    for number, (size, cell) in enumerate(zip(frame[n_col], frame[curve_col], strict=True)):
        curve = _curve(cell, f"{source}: row {number + 1}, column {curve_col}")
        runs += [number] * len(curve)
        sizes += [float(size)] * len(curve)
        points.append(curve)
    if not runs:
        raise TableError(f"{source}: no row has a training curve in column {curve_col}")
    D, loss = np.concatenate(points).T
    return Curves(np.array(runs, dtype=np.intp), np.array(sizes), D, loss)


def envelope(curves: Curves, *, per_decade: int = PER_DECADE, bootstrap: int = 1000, seed: int = 0) -> Envelope:
    """The lower envelope at `per_decade` values of C = 6 N D a decade, its laws, and their intervals from resampled runs.

    Curves are interpolated linearly in (log C, log loss) and never extended. Raises FitError when fewer than three sizes attain it.
    """
    budget, log_loss, sizes = _interpolated(curves, per_decade)
    everyone = np.ones((1, len(sizes)), dtype=np.bool_)
    kept, best = (found[0] for found in _attained(everyone, budget, log_loss, sizes))
    if len(np.unique(sizes[best[kept]])) < 3:
        raise FitError("the envelope of the training curves needs at least 3 sizes N, each the best somewhere")
    log_c, log_n, level = budget[kept], np.log(sizes[best[kept]]), log_loss[best[kept], np.flatnonzero(kept)]
    theta = _laws(log_c, np.ones((1, len(log_c)), dtype=np.bool_), log_n[None], level[None])
    samples = _resample(budget, log_loss, sizes, bootstrap, np.random.default_rng(seed))
    bounds = np.nanpercentile(samples, [2.5, 97.5], axis=0).T.tolist() if len(samples) else []
    labels = np.unique(curves.run)
    return Envelope(
        C=np.exp(log_c),
        N=np.exp(log_n),
        D=np.exp(log_c - np.log(6.0) - log_n),
        loss=np.exp(level),
        run=labels[best[kept]],
        a=float(theta[0, 0]),
        b=float(theta[0, 2]),
        E=float(theta[0, 4]),
        K=float(theta[0, 5]),
        gamma=float(theta[0, 6]),
        ci95={name: (low, high) for name, (low, high) in zip(COLUMNS, bounds, strict=True)} if bounds else None,
        samples=samples,
        share_at_edge=float(1 - kept.sum() / np.isfinite(log_loss).any(axis=0).sum()),
        cooldown_gap=cooldown_gap(curves),
    )


def cooldown_gap(curves: Curves) -> float | None:
    """How much higher curves pass, in median log loss, over where another run of the same N ends: what the cooldown is worth."""
    gaps = []
    ends = {
        run: int(np.flatnonzero(curves.run == run)[np.argmax(curves.D[curves.run == run])])
        for run in np.unique(curves.run)
    }
    for run, end in ends.items():
        for other, last in ends.items():
            if other == run or curves.N[last] != curves.N[end] or not curves.D[last] > 1.01 * curves.D[end]:
                continue
            points = np.flatnonzero(curves.run == other)
            points = points[np.argsort(curves.D[points])]
            if curves.D[points[0]] <= curves.D[end]:
                passing = np.interp(np.log(curves.D[end]), np.log(curves.D[points]), np.log(curves.loss[points]))
                gaps.append(float(passing - np.log(curves.loss[end])))
    return float(np.median(gaps)) if gaps else None


def _curve(cell: object, where: str) -> Array:
    """(points, 2): tokens and loss; (0, 2) for an empty cell."""
    if cell is None or (isinstance(cell, float) and np.isnan(cell)) or (isinstance(cell, str) and not cell.strip()):
        return np.empty((0, 2))
    try:
        points = json.loads(cell) if isinstance(cell, str) else list(cell)  # type: ignore[call-overload]
        curve = np.array([[float(point[0]), float(point[1])] for point in points], dtype=np.float64).reshape(-1, 2)
    except (TypeError, ValueError, IndexError, KeyError, RecursionError) as error:
        raise TableError(f"{where}: not a list of [tokens, loss, standard error]") from error
    if not (np.isfinite(curve).all() and (curve > 0).all()):
        raise TableError(f"{where}: tokens and losses must be positive numbers")
    return curve


def _interpolated(curves: Curves, per_decade: int) -> tuple[Array, Array, Array]:
    """log C on a grid (k,); log loss of each run there (runs, k), inf where its curve does not reach; N (runs,)."""
    log_c = np.log(6.0) + np.log(curves.N) + np.log(curves.D)
    step = np.log(10.0) / per_decade
    grid = np.arange(np.ceil(log_c.min() / step), np.floor(log_c.max() / step) + 1) * step
    labels = np.unique(curves.run)
    log_loss, sizes = np.full((len(labels), len(grid)), np.inf), np.empty(len(labels))
    for k, run in enumerate(labels):
        points = np.flatnonzero(curves.run == run)
        points = points[np.argsort(log_c[points], kind="stable")]
        reached = (grid >= log_c[points[0]]) & (grid <= log_c[points[-1]])
        log_loss[k, reached] = np.interp(grid[reached], log_c[points], np.log(curves.loss[points]))
        sizes[k] = curves.N[points[0]]
    return grid, log_loss, sizes


def _attained(
    present: npt.NDArray[np.bool_], budget: Array, log_loss: Array, sizes: Array
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.intp]]:
    """For subsets of the runs (S, runs): the run that attains each budget (S, k), and the budgets to fit (S, k).

    Those are chosen by C, as where the line through the points of inner sizes stays MARGIN of its own scatter inside the range of
    sizes: to choose points by the N that they attain would cut that scatter off at both ends, and flatten the line.
    """
    there = present[:, :, None] & np.isfinite(log_loss)
    best = np.where(there, log_loss, np.inf).argmin(axis=1)
    log_n, x = np.log(sizes)[best], np.log(sizes)
    reached = there.any(axis=1)
    smallest = np.where(present, x, np.inf).min(axis=1, keepdims=True)
    largest = np.where(present, x, -np.inf).max(axis=1, keepdims=True)
    inner = reached & (smallest < log_n) & (log_n < largest)
    slope, level = _line(budget, inner, log_n)
    expected = level[:, None] + slope[:, None] * budget
    scatter = np.sqrt((inner * (log_n - expected) ** 2).sum(1) / np.maximum(inner.sum(1), 1))[:, None]
    kept = reached & (expected - MARGIN * scatter > smallest) & (expected + MARGIN * scatter < largest)
    return kept, best


def _line(x: Array, kept: npt.NDArray[np.bool_], y: Array) -> tuple[Array, Array]:
    """Slope and level (S,) of the least-squares line of y (S, k) in x (k,) over the kept points (S, k); nan with fewer than two."""
    weight = kept.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        total = weight.sum(1)
        centre = (weight * x).sum(1) / total
        lever = weight * (x - centre[:, None])
        slope = (lever * y).sum(1) / (lever**2).sum(1)
        return slope, (weight * y).sum(1) / total - slope * centre


def _resample(budget: Array, log_loss: Array, sizes: Array, count: int, rng: np.random.Generator) -> Array:
    """(count, 7): the laws of envelopes of runs drawn with replacement; whole curves, since the points of a curve go together."""
    runs = len(sizes)
    present = rng.multinomial(runs, np.full(runs, 1 / runs), size=count) > 0
    size = max(1, AT_ONCE // log_loss.size)
    parts = [np.empty((0, len(COLUMNS)))]
    for first in range(0, count, size):
        kept, best = _attained(present[first : first + size], budget, log_loss, sizes)
        level = np.where(kept, log_loss[best, np.arange(len(budget))], 0.0)
        parts.append(_laws(budget, kept, np.log(sizes)[best], level))
    return np.concatenate(parts)


def _laws(log_c: Array, kept: npt.NDArray[np.bool_], log_n: Array, level: Array) -> Array:
    """(S, 7): lines of log N and log D in log C over the kept budgets (S, k), and E + K C^-gamma through the losses e^level."""
    a, log_n1 = _line(log_c, kept, log_n)
    return np.column_stack([a, log_n1, 1 - a, -np.log(6.0) - log_n1, _saturating(log_c, kept, level)])


def _saturating(log_c: Array, kept: npt.NDArray[np.bool_], level: Array) -> Array:
    """E, K, gamma (S, 3) of L = E + K C^-gamma by variable projection: gamma by a search that zooms in, E and K as solved for it."""
    weight = kept.astype(np.float64)
    x, inverse = log_c - log_c.mean(), weight * np.exp(-level)
    rows, centre, half = (
        np.arange(len(level)),
        np.full(len(level), np.log(0.09)),
        np.log(18.0),
    )  # gamma from .005 to 1.6
    for _ in range(ZOOMS):
        tried = centre[:, None] + half * np.linspace(-1, 1, 25)
        scores = np.stack([_projected(np.exp(column), x, weight, inverse)[0] for column in tried.T], axis=1)
        centre, half = tried[rows, np.nan_to_num(scores, nan=np.inf).argmin(axis=1)], half / 8
    gamma = np.exp(centre)
    _, E, K = _projected(gamma, x, weight, inverse)
    return np.column_stack([E, K * np.exp(gamma * log_c.mean()), gamma])


def _projected(gamma: Array, x: Array, weight: Array, inverse: Array) -> tuple[Array, Array, Array]:
    """For gamma (S,) the least squares of L-hat/L - 1 in E >= 0 and K: what remains, E and K', each (S,); K' is at x = 0."""
    power = np.exp(-gamma[:, None] * x) * inverse
    ee, pp, ep = (inverse**2).sum(1), (power**2).sum(1), (inverse * power).sum(1)
    e1, p1 = inverse.sum(1), power.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        E = np.maximum((e1 * pp - p1 * ep) / (ee * pp - ep * ep), 0.0)
        K = (p1 - E * ep) / pp
    return ((E[:, None] * inverse + K[:, None] * power - weight) ** 2).sum(1), E, K
