"""Bootstrap over runs: every resample refitted at once, percentile intervals and standard errors."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .laws import Array, Chinchilla, Rows
from .optimize import Optimum, best_of, minimise

RESAMPLES_AT_ONCE = 1 << 22  # elements of the matrix of multiplicities: 32 MiB


def bootstrap(
    law: Chinchilla, rows: Rows, optimum: Optimum, *, delta: float, count: int, rng: np.random.Generator
) -> Array:
    """Pairs bootstrap (Efron 1979): `count` resamples of the runs with replacement, refitted: theta (count, p).

    A resample is a vector of multiplicities, Multinomial(n; 1/n, ..., 1/n), used as row weights.
    """
    n = len(rows.y)
    size = max(1, RESAMPLES_AT_ONCE // n)
    parts = [np.empty((0, len(optimum.theta)))]
    for first in range(0, count, size):
        weights = rng.multinomial(n, np.full(n, 1.0 / n), size=min(size, count - first)).astype(np.float64)
        parts.append(refit(law, rows, optimum, weights, delta))
    return np.concatenate(parts)


def refit(law: Chinchilla, rows: Rows, optimum: Optimum, weights: Array, delta: float) -> Array:
    """The best theta (S, p) under each row of weights (S, n).

    Started from every leading optimum of the whole table, and once more from the best one through ten times delta, which steps over
    the kinks between an optimum of the table and that of the resample.
    """
    starts = [np.broadcast_to(theta, (len(weights), len(theta))) for theta in optimum.leading]
    candidates = [minimise(law, rows, weights, start, delta) for start in starts]
    softened = minimise(law, rows, weights, starts[0], 10 * delta)
    candidates.append(minimise(law, rows, weights, softened.theta, delta))
    return best_of(candidates).theta


def ci95(samples: npt.ArrayLike) -> Array:
    """Percentile interval over the first axis of samples (S, ...): (..., 2); samples that are not finite are left out."""
    values = np.asarray(samples, dtype=np.float64)
    values = np.where(np.isfinite(values), values, np.nan)
    empty = np.asarray(np.isnan(values).all(axis=0))
    filled = np.where(empty, 0.0, values)
    bounds = np.moveaxis(np.nanpercentile(filled, [2.5, 97.5], axis=0), 0, -1)
    return np.where(empty[..., None], np.nan, bounds)
