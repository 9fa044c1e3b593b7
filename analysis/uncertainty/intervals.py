"""Bootstrap over runs: every resample refitted at once, percentile intervals and standard errors."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..laws import Array, Law, Rows
from ..solver.losses import Loss, as_loss
from ..solver.newton import minimise
from ..solver.optimize import Optimum

RESAMPLES_AT_ONCE = 1 << 22  # elements of the matrix of multiplicities: 32 MiB
TOLERANCE = 1e-8  # of the objective of a resample: a thousandth of a standard error
BETTER = 1e-7
CANDIDATES = 256  # optima of other resamples that each resample is tried with
NEAREST = 16  # of these, the ones that a resample of a small table may start from
SMALL = 1 << 16  # elements of the matrix of multiplicities
ROUNDS, ITERATIONS = 3, 200


def bootstrap(
    law: Law, rows: Rows, optimum: Optimum, *, delta: Loss | float, count: int, rng: np.random.Generator
) -> Array:
    """Pairs bootstrap (Efron 1979): `count` resamples of the runs with replacement, refitted: theta (count, p).

    A resample is a vector of multiplicities, Multinomial(n; 1/n, ..., 1/n), used as row weights.
    """
    n = len(rows.x)
    size = max(1, RESAMPLES_AT_ONCE // n)
    parts = [np.empty((0, len(optimum.theta)))]
    for first in range(0, count, size):
        weights = pairs_weights(n, min(size, count - first), rng)
        parts.append(refit(law, rows, optimum, weights, delta))
    return np.concatenate(parts)


def pairs_weights(n: int, count: int, rng: np.random.Generator) -> Array:
    """Multiplicities (count, n) of runs drawn with replacement."""
    return rng.multinomial(n, np.full(n, 1.0 / n), size=count).astype(np.float64)


def refit(law: Law, rows: Rows, optimum: Optimum, weights: Array, delta: Loss | float) -> Array:
    """The best theta (S, p) under each row of multiplicities (S, n), which multiply `rows.weight`; a number is the delta of log-Huber.

    All start from the optimum of the table. Then each is tried with the optima of others, which costs one matrix product, and starts
    again from any that is better than its own: a resample whose optimum lies beyond a kink finds it among its fellows'. In a small
    table, where kinks are far apart, every resample starts again, if not from a better optimum, then from one of the next best.
    """
    loss, weights = as_loss(delta), weights * rows.weight
    best = minimise(
        law, rows, weights, np.repeat(optimum.theta[None], len(weights), axis=0), loss, ITERATIONS, TOLERANCE
    )
    rng = np.random.default_rng(0)
    for _ in range(ROUNDS):
        candidates = np.concatenate([best.theta[rng.permutation(len(weights))[:CANDIDATES]], optimum.leading])
        objectives = _objectives(law, rows, weights, candidates, loss)
        chosen, some = objectives.argmin(1), np.flatnonzero(objectives.min(1) < best.objective * (1.0 - BETTER))
        if weights.size <= SMALL:
            rank = rng.integers(min(NEAREST, len(candidates)), size=len(weights))
            rank[some], some = 0, np.arange(len(weights))
            chosen = objectives.argsort(1)[some, rank]
        if not len(some):
            break
        again = minimise(law, rows.problems(some), weights[some], candidates[chosen[some]], loss, ITERATIONS, TOLERANCE)
        better = again.objective < best.objective[some]
        best = best.put(some[better], again.take(better))
    return best.theta


def _objectives(law: Law, rows: Rows, weights: Array, candidates: Array, loss: Loss) -> Array:
    """The objective of every problem at every candidate (m, p): (S, m)."""
    curves = law.shares(candidates, rows).f
    if rows.y.ndim == 1:
        shared: Array = weights @ loss.value(rows.y - curves).T
        return shared
    return np.stack([np.vecdot(weights, loss.value(rows.y - curve)) for curve in curves], axis=1)


def ci95(samples: npt.ArrayLike) -> Array:
    """Percentile interval over the first axis of samples (S, ...): (..., 2); samples that are not finite are left out."""
    values = np.asarray(samples, dtype=np.float64)
    values = np.where(np.isfinite(values), values, np.nan)
    empty = np.asarray(np.isnan(values).all(axis=0))
    filled = np.where(empty, 0.0, values)
    bounds = np.moveaxis(np.nanpercentile(filled, [2.5, 97.5], axis=0), 0, -1)
    return np.where(empty[..., None], np.nan, bounds)
