"""Resampling schemes, and the one behind the default 95 % intervals of any scalar of the parameters.

Each scheme yields row weights (S, n), for `intervals.refit`, or perturbed log losses (S, n), for `refit_losses`:

pairs            multiplicities of runs                           Efron 1979
clustered pairs  multiplicities of whole clusters of runs         Field & Welsh 2007
residual         fitted loss + errors drawn with replacement      Davison & Hinkley 1997, algorithm 6.3
wild             fitted loss +- each run's own error              Liu 1988; for the L1 norm Feng, He & Hu 2011

An interval of a scalar is `intervals.ci95` of its values at the samples of `default_bootstrap`: residual with errors r/(1 - leverage) (HC3 of
MacKinnon & White 1985), wild where the noise is unequal. On the simulated grids of `benchmarks/coverage.py` pairs cover too much,
because a resample of 25 runs loses whole rows of the design, and residuals without that correction too little.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from ..laws import Array, FitError, Law, Rows
from ..solver.losses import NORMAL_MAD, Huber, LeastSquares, Loss, as_loss
from ..solver.newton import minimise
from ..solver.optimize import Optimum
from .intervals import ITERATIONS, TOLERANCE, pairs_weights

EFFICIENT = 1.345  # Huber's delta in standard deviations at which normal noise costs 5 % (Huber 1964)
LARGEST_LEVERAGE = 0.95
UNEQUAL = 1.25  # wild over residual standard error from which the noise counts as unequal
SMALLEST_SCALE = 1e-12  # runs without any noise


@dataclass(frozen=True)
class Samples:
    """theta (S, p) of a bootstrap, and the scheme that it is: residual or wild."""

    theta: Array
    scheme: str


def cluster_weights(clusters: npt.ArrayLike, count: int, rng: np.random.Generator) -> Array:
    """Multiplicities (count, n) of runs when whole clusters (labels (n,): checkpoints of one run, say) are drawn with replacement."""
    _, member = np.unique(np.asarray(clusters), return_inverse=True)
    groups = int(member.max()) + 1
    if groups < 2:
        raise FitError("all runs are of one cluster: there is nothing to resample")
    return pairs_weights(groups, count, rng)[:, member]


def noise(law: Law, rows: Rows, optimum: Optimum, loss: Loss | float) -> Array:
    """Estimated errors in log L (n,) of runs of weight 1: residuals r/(1 - leverage) of a Huber fit at 1.345 standard deviations.

    Not the residuals of the fit itself: near the L1 norm that passes through about as many runs as it has parameters, and resampled
    zeros make intervals too short. The standard deviation is a robust one of the residuals of least squares. The errors are centred
    where `loss` puts their centre, so that the fit is the truth of the bootstrap's world.
    """
    root, n, p = np.sqrt(rows.weight), len(rows.x), len(optimum.theta)
    squares = minimise(law, rows, rows.weight[None], optimum.theta[None], LeastSquares()).theta
    size = root * np.abs(rows.y - law.shares(squares, rows).f[0])
    scale = max(NORMAL_MAD * float(np.median(size)) * np.sqrt(n / max(n - p, 1)), SMALLEST_SCALE)
    theta = minimise(law, rows, rows.weight[None], squares, Huber(EFFICIENT * scale)).theta
    at = law.shares(theta, rows)
    residual = root * (rows.y - at.f[0])
    return _centred(residual / (1 - leverage(root[:, None] * at.jacobian()[0].T)), as_loss(loss))


def leverage(J: Array) -> Array:
    """The diagonal of the hat matrix of J (n, p), at most 0.95: (n,)."""
    return np.asarray(np.minimum((J * np.linalg.pinv(J).T).sum(axis=1), LARGEST_LEVERAGE))


def _centred(errors: Array, loss: Loss) -> Array:
    """errors - c where c is what `loss` makes of a law that is a constant."""
    low, high = float(errors.min()), float(errors.max())
    if not low < high:
        return np.zeros_like(errors)
    centre = minimize_scalar(
        lambda c: float(loss.value(errors - c).sum()),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-6 * (high - low)},
    )
    return np.asarray(errors - float(centre.x))


def residual_losses(rows: Rows, fitted: Array, errors: Array, count: int, rng: np.random.Generator) -> Array:
    """log losses (count, n): fitted (n,) + errors (n,) drawn with replacement, over the root of the run's weight."""
    return np.asarray(fitted + rng.choice(errors, size=(count, len(errors))) / np.sqrt(rows.weight))


def wild_losses(
    rows: Rows,
    fitted: Array,
    errors: Array,
    count: int,
    rng: np.random.Generator,
    clusters: npt.ArrayLike | None = None,
) -> Array:
    """log losses (count, n): fitted (n,) + each run's own error with a random sign, the same within a cluster (labels (n,)).

    Keeps unequal noise where it is; with clusters it is the wild cluster bootstrap (Cameron, Gelbach & Miller 2008).
    """
    member = np.arange(len(errors)) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    signs = rng.choice(np.array([-1.0, 1.0]), size=(count, int(member.max()) + 1))
    return np.asarray(fitted + signs[:, member] * errors / np.sqrt(rows.weight))


def refit_losses(law: Law, rows: Rows, optimum: Optimum, y: Array, loss: Loss | float) -> Array:
    """theta (S, p): the law refitted to each row of log losses y (S, n), from every leading optimum of the table.

    The losses lie about the fit, which pairs do not: on simulated grids of 16 to 64 runs `intervals.refit` with its restarts finds a lower
    minimum for less than 1 % of the rows, and the same intervals to four digits, in five times the time.
    """
    batch, weights = rows.with_losses(y), rows.weight[None]
    found = [
        minimise(law, batch, weights, np.repeat(start[None], len(y), axis=0), loss, ITERATIONS, TOLERANCE)
        for start in optimum.leading
    ]
    lowest = np.argmin([minima.objective for minima in found], axis=0)
    return np.asarray(np.stack([minima.theta for minima in found])[lowest, np.arange(len(y))])


def residual_bootstrap(
    law: Law, rows: Rows, optimum: Optimum, *, loss: Loss | float, count: int, rng: np.random.Generator
) -> Array:
    """theta (count, p) of the residual bootstrap, for noise that is alike in all runs."""
    fitted = law.shares(optimum.theta[None], rows).f[0]
    y = residual_losses(rows, fitted, noise(law, rows, optimum, loss), count, rng)
    return refit_losses(law, rows, optimum, y, loss)


def default_bootstrap(
    law: Law, rows: Rows, optimum: Optimum, *, loss: Loss | float, count: int, rng: np.random.Generator
) -> Samples:
    """The residual bootstrap, or the wild one where it spreads over a quarter wider in the median parameter.

    Errors drawn from anywhere make the intervals too short where the noise is larger at the runs that matter most; the wild bootstrap
    keeps each error where it is, but covers a little less where all noise is alike. Costs both.
    """
    residual = residual_bootstrap(law, rows, optimum, loss=loss, count=count, rng=rng)
    wild = wild_bootstrap(law, rows, optimum, loss=loss, count=count, rng=rng)
    ratio = wild.std(axis=0) / np.maximum(residual.std(axis=0), 1e-300)
    return Samples(wild, "wild") if np.median(ratio) > UNEQUAL else Samples(residual, "residual")


def wild_bootstrap(
    law: Law,
    rows: Rows,
    optimum: Optimum,
    *,
    loss: Loss | float,
    count: int,
    rng: np.random.Generator,
    clusters: npt.ArrayLike | None = None,
) -> Array:
    """theta (count, p) of the wild bootstrap, for noise that differs by run or goes by clusters (labels (n,))."""
    fitted = law.shares(optimum.theta[None], rows).f[0]
    y = wild_losses(rows, fitted, noise(law, rows, optimum, loss), count, rng, clusters)
    return refit_losses(law, rows, optimum, y, loss)
