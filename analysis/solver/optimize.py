"""The global minimum of a law on a table: a grid of starts, continuation towards the loss, and bootstrap restarting.

Near the L1 norm an objective has kinks at every run and often several minima. So least squares comes first and Huber's delta is lowered
in stages; some starts also go straight to the loss asked for; and the best minimum is disturbed by refitting it to resamples of the
runs and then to the runs again, until that no longer lowers it (Wood 2001, Biometrics 57:240).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..laws import Array, Law, Rows
from .losses import Loss, as_loss
from .newton import NOISELESS, Mask, Minima, Point, minimise

SAME_CURVE = 1e-6  # minima whose log L-hat differ by less than this at every run are one minimum
AGREE = 1e-6  # relative: objectives closer than this count as the same
SCREENING_ROWS = 1000  # with more runs the search is made on a subset, and what it finds refined on all
STARTS = 8  # of the grid, by least squares and again by the loss itself
RESTARTS, RESTARTED_ELEMENTS = 96, 1 << 13  # at most so many restarts a round, fewer for large tables
ROUNDS = 6
POLISHED, NEAR = 4, 1.01  # so many minima are refined to the end, if as near as this to the best
ZERO_STARTS = 2  # of the starts also begin, and stay, at E = 0
KEPT = 4  # minima that are followed from one loss to the next, and the best with E = 0


@dataclass(frozen=True)
class Optimum:
    """The best minimum found: theta (p,), and what certifies it.

    Of `starts` starts `starts_agreeing` ended there; `gradient_norm` is the largest component of the projected gradient over sum of
    w |slope|; `condition` is that of the Hessian over the free parameters, each scaled to unit curvature. `leading` (k, p) holds the
    best distinct minima, best first.
    """

    theta: Array
    objective: float
    gradient_norm: float
    starts: int
    starts_agreeing: int
    leading: Array
    condition: float


def global_minimum(law: Law, rows: Rows, loss: Loss | float) -> Optimum:
    """The best minimum of sum of weight * loss(log L - log L-hat); a number for `loss` is the delta of log-Huber.

    Raises FitError where the law cannot be fitted to these rows.
    """
    loss, few, n = as_loss(loss), rows, len(rows.x)
    if n > SCREENING_ROWS:
        few = rows.take(np.sort(np.random.default_rng(0).choice(n, SCREENING_ROWS, replace=False)))
    found = _restarted(law, few, loss, _from_grid(law, few, loss))
    near = found.take(np.flatnonzero(found.minima.objective <= NEAR * found.minima.objective[0])[:POLISHED])
    polished = minimise(law, rows, rows.weight[None], near.minima.theta, loss, iterations=500)
    final = _Pool(polished, near.count).distinct(law, rows)
    best, theta = final.minima, final.minima.theta[:1]
    return Optimum(
        theta=theta[0],
        objective=float(best.objective[0]),
        gradient_norm=float(best.gradient[0]),
        starts=int(found.count.sum()),
        starts_agreeing=int(final.count[final.agreeing(rows)].sum()),
        leading=best.theta[:4],
        condition=_condition(Point.of(law, rows, rows.weight[None], theta, loss), theta, law.bounds(rows)),
    )


@dataclass(frozen=True)
class _Pool:
    """Minima and how many starts ended in each (S,)."""

    minima: Minima
    count: npt.NDArray[np.intp]

    @classmethod
    def of(cls, minima: Minima) -> _Pool:
        return cls(minima, np.ones(len(minima.theta), dtype=np.intp))

    def take(self, which: npt.NDArray[np.intp]) -> _Pool:
        return _Pool(self.minima.take(which), self.count[which])

    def distinct(self, law: Law, rows: Rows) -> _Pool:
        """Sorted by objective, with the minima of one and the same curve merged."""
        pool = self.take(np.argsort(self.minima.objective, kind="stable"))
        curves = law.shares(pool.minima.theta, rows).f
        owner = np.arange(len(curves))
        for k in range(len(curves)):
            if owner[k] == k:
                same = np.abs(curves[k + 1 :] - curves[k]).max(axis=1, initial=0.0) < SAME_CURVE
                owner[k + 1 :][same & (owner[k + 1 :] > k)] = k
        kept = np.flatnonzero(owner == np.arange(len(owner)))
        return _Pool(pool.minima.take(kept), np.array([pool.count[owner == k].sum() for k in kept], dtype=np.intp))

    def agreeing(self, rows: Rows) -> Mask:
        """Which minima are as low as the first."""
        objective = self.minima.objective
        agrees: Mask = objective <= objective[0] * (1.0 + AGREE) + NOISELESS * rows.weight.sum()
        return agrees


def _join(pools: Sequence[_Pool]) -> _Pool:
    parts = [(pool.minima.theta, pool.minima.objective, pool.minima.gradient, pool.count) for pool in pools]
    theta, objective, gradient, count = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return _Pool(Minima(theta, objective, gradient), count)


def _from_grid(law: Law, rows: Rows, loss: Loss) -> _Pool:
    """The minima that the best points of the grid lead to, by continuation, straight, and with E = 0.

    Towards E = 0 the valley in (log A, log E, alpha) is long and bent, so that its end is looked for on its own.
    """
    grid, weight = law.starts(rows), rows.weight[None]
    residuals = rows.y - law.shares(grid, rows).f
    by_squares = grid[np.argsort(residuals**2 @ rows.weight, kind="stable")[:STARTS]]
    by_loss = grid[np.argsort(loss.value(residuals) @ rows.weight, kind="stable")[:STARTS]]
    straight, path = _with_zero(law, rows, by_loss), _with_zero(law, rows, by_squares)
    bounds = _bounds(law, rows, straight)
    found = _Pool.of(minimise(law, rows, weight, straight, loss, iterations=20, tolerance=1e-8, bounds=bounds))
    count = np.ones(len(path), dtype=np.intp)
    for stage in loss.stages():
        bounds = _bounds(law, rows, path)
        minima = minimise(law, rows, weight, path, stage, iterations=15, tolerance=1e-6, bounds=bounds)
        pool = _Pool(minima, count).distinct(law, rows)
        zero = np.flatnonzero(_is_zero(law, rows, pool.minima.theta))
        pool = pool.take(np.union1d(np.arange(len(pool.count))[:KEPT], zero[:1]))
        path, count = pool.minima.theta, pool.count
    return _join([found, pool]).distinct(law, rows)


def _with_zero(law: Law, rows: Rows, starts: Array) -> Array:
    """The starts, and the first of them again with E = 0."""
    if law.floor is None:
        return starts
    zero = starts[:ZERO_STARTS].copy()
    zero[:, law.floor] = law.bounds(rows)[0][law.floor]
    return np.concatenate([starts, zero])


def _bounds(law: Law, rows: Rows, theta: Array) -> tuple[Array, Array]:
    """The law's bounds (S, p), but E stays zero where it is."""
    low, high = (np.repeat(bound[None], len(theta), axis=0) for bound in law.bounds(rows))
    if law.floor is not None:
        high[:, law.floor] = np.where(_is_zero(law, rows, theta), low[:, law.floor], high[:, law.floor])
    return low, high


def _is_zero(law: Law, rows: Rows, theta: Array) -> Mask:
    """Where E = 0."""
    if law.floor is None:
        return np.zeros(len(theta), dtype=np.bool_)
    zero: Mask = theta[:, law.floor] <= law.bounds(rows)[0][law.floor]
    return zero


def _restarted(law: Law, rows: Rows, loss: Loss, pool: _Pool) -> _Pool:
    """The pool with what bootstrap restarting finds, round after round until the best minimum stays."""
    n, weight = len(rows.x), rows.weight[None]
    size = int(np.clip(RESTARTED_ELEMENTS // n, 8, RESTARTS))
    for seed in range(ROUNDS):
        before = pool.minima.objective[0]
        resampled = np.random.default_rng(seed).multinomial(n, np.full(n, 1.0 / n), size) * rows.weight
        start = np.repeat(pool.minima.theta[:1], size, axis=0)
        moved = minimise(law, rows, resampled, start, loss, iterations=8, tolerance=1e-6).theta
        again = minimise(law, rows, weight, moved, loss, iterations=25, tolerance=1e-9)
        pool = _join([pool, _Pool.of(again)]).distinct(law, rows)
        if pool.minima.objective[0] > before * (1.0 - AGREE):
            break
    return pool


def _condition(at: Point, theta: Array, bounds: tuple[Array, Array]) -> float:
    free = ((theta > bounds[0]) & (theta < bounds[1]))[0]
    hessian = at.hessian[0][np.ix_(free, free)]
    size = np.sqrt(np.abs(np.diag(hessian)))
    return float(np.linalg.cond(hessian / np.outer(size, size))) if free.any() and size.all() else float("inf")
