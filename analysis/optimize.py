"""Batched damped Newton for the log-Huber objective: many starts, or many bootstrap resamples, refined at once.

Objective (a SUM over runs, as in Hoffmann et al. 2022, section 3.3): sum of w * Huber_delta(log L - log L-hat), with
Huber_delta(r) = r^2/2 inside |r| <= delta and delta (|r| - delta/2) outside. At delta = 1e-3 it is nearly the L1 norm, and a plain
quasi-Newton stops at its kinks. So delta is lowered in stages, each starting from the optimum of the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .laws import Array, Chinchilla, Rows, Shares

GRADIENT_TOLERANCE = 1e-9
NOISELESS = 1e-26  # a mean objective below this is rounding error
SAME_CURVE = 1e-6  # minima whose log L-hat differ by less than this at every run are one minimum
START_EXPONENTS = np.array([0.05, 0.15, 0.25, 0.35, 0.5, 0.7, 1.0, 1.5])
SCREENING_ROWS = (
    4000  # with more runs than this the starts are refined on a subset, and what is left of them on all runs
)
CHUNK = 1 << 16  # elements of one (batch, runs) array: what stays in a core's cache


@dataclass(frozen=True)
class Minima:
    """theta (S, p), objective (S,), and gradient (S,): the largest component of the projected gradient over sum of w |psi|."""

    theta: Array
    objective: Array
    gradient: Array

    def take(self, order: npt.NDArray[np.intp]) -> Minima:
        return Minima(self.theta[order], self.objective[order], self.gradient[order])


@dataclass(frozen=True)
class Optimum:
    """The best minimum found: theta (p,); how many of the starts ended there; and the leading distinct minima (k, p), best first."""

    theta: Array
    objective: float
    gradient_norm: float
    starts: int
    starts_agreeing: int
    leading: Array


def huber(r: Array, delta: float) -> Array:
    """Huber's loss of each residual, elementwise."""
    inside = np.minimum(np.abs(r), delta)
    return inside * (np.abs(r) - 0.5 * inside)


def minimise(law: Chinchilla, rows: Rows, weights: Array, starts: Array, delta: float, iterations: int = 300) -> Minima:
    """The local minimum from every start (S, p) under row weights (S, n) or (1, n): bootstrap multiplicities, or ones."""
    weights = np.broadcast_to(weights, (len(starts), len(rows.y)))
    size = max(1, CHUNK // len(rows.y))
    parts = [
        _minimise(law, rows, weights[i : i + size], starts[i : i + size], delta, iterations)
        for i in range(0, len(starts), size)
    ]
    return Minima(
        np.concatenate([part.theta for part in parts]),
        np.concatenate([part.objective for part in parts]),
        np.concatenate([part.gradient for part in parts]),
    )


def best_of(candidates: Sequence[Minima]) -> Minima:
    """Per problem the best of several runs of `minimise` on the same problems."""
    best = np.argmin([m.objective for m in candidates], axis=0)
    each = np.arange(len(best))
    return Minima(
        np.stack([m.theta for m in candidates])[best, each],
        np.stack([m.objective for m in candidates])[best, each],
        np.stack([m.gradient for m in candidates])[best, each],
    )


def deltas(delta: float) -> list[float]:
    """The stages of the continuation: least squares (delta 1), then from 0.03 down to `delta` by about a factor of three."""
    if delta >= 0.03:
        return [1.0, delta] if delta < 1.0 else [delta]
    stages = int(np.ceil(np.log(0.03 / delta) / np.log(3.2)))
    return [1.0, *(float(d) for d in np.geomspace(0.03, delta, stages + 1)[:-1]), delta]


def global_minimum(law: Chinchilla, rows: Rows, delta: float) -> Optimum:
    """The best minimum from a grid of variable-projection starts, each taken down the deltas, with the gradient that certifies it.

    The starts of the best objective also go straight to the last stage: near the L1 norm a table can have several minima, and the
    continuation alone follows one path.
    """
    n = len(rows.y)
    few = rows
    if n > SCREENING_ROWS:
        few = rows.take(np.sort(np.random.default_rng(0).choice(n, SCREENING_ROWS, replace=False)))
    ones = np.ones((1, len(few.y)))
    grid = law.starts(few, START_EXPONENTS)
    theta, count = grid, np.ones(len(grid), dtype=np.intp)
    for stage in deltas(delta):
        found, count = _distinct(law, few, minimise(law, few, ones, theta, stage, 60), count)
        theta = found.theta
    fits = huber(few.y - law.shares(grid, few).f, delta).sum(1)
    direct = minimise(law, few, ones, grid[np.argsort(fits, kind="stable")[:16]], delta, 60)
    pooled = minimise(law, few, ones, np.concatenate([theta[:24], direct.theta]), delta, 60)
    found, count = _distinct(law, few, pooled, np.concatenate([count[:24], np.zeros(len(direct.theta), dtype=np.intp)]))
    polished = minimise(law, rows, np.ones((1, n)), found.theta, delta, 2000)
    final, count = _distinct(law, rows, polished, count)
    return Optimum(
        theta=final.theta[0],
        objective=float(final.objective[0]),
        gradient_norm=float(final.gradient[0]),
        starts=len(grid),
        starts_agreeing=int(count[final.objective <= final.objective[0] * (1 + 1e-6) + NOISELESS * n].sum()),
        leading=final.theta[:4],
    )


def _distinct(
    law: Chinchilla, rows: Rows, found: Minima, count: npt.NDArray[np.intp]
) -> tuple[Minima, npt.NDArray[np.intp]]:
    """Minima sorted by objective, those of one and the same curve merged, and how many starts stand behind each."""
    order = np.argsort(found.objective, kind="stable")
    found, count = found.take(order), count[order]
    curves = law.shares(found.theta, rows).f
    owner = np.arange(len(order))
    for k in range(len(order)):
        if owner[k] == k:
            same = np.abs(curves[k + 1 :] - curves[k]).max(axis=1, initial=0.0) < SAME_CURVE
            owner[k + 1 :][same & (owner[k + 1 :] > k)] = k
    kept = np.flatnonzero(owner == np.arange(len(order)))
    return found.take(kept), np.array([count[owner == k].sum() for k in kept], dtype=np.intp)


def _minimise(law: Chinchilla, rows: Rows, weights: Array, starts: Array, delta: float, iterations: int) -> Minima:
    """Levenberg's method with the exact Hessian and a second-order correction; a step that does not lower the objective is refused."""
    low, high = law.bounds(rows)
    theta = np.clip(starts, low, high)
    damping = np.full(len(theta), 1e-2)
    at = law.shares(theta, rows)
    residual = rows.y - at.f
    objective = (weights * huber(residual, delta)).sum(1)
    found = Minima(theta.copy(), objective.copy(), np.full(len(theta), np.inf))
    live = np.arange(len(theta))
    for _ in range(iterations):
        size = np.abs(residual)
        slope = weights * np.clip(residual, -delta, delta)
        quadratic = weights * (size <= delta)
        gradient = -law.gradient(at, rows, slope)
        held = ((theta <= low) & (gradient > 0)) | ((theta >= high) & (gradient < 0))
        gradient[held] = 0.0
        norm = np.abs(gradient).max(1) / (np.abs(slope).sum(1) + 1e-14 * weights.sum(1))
        model = _model(
            hessian=law.curvature(at, rows, quadratic, -slope),
            metric=law.curvature(at, rows, weights * (delta / np.maximum(size, delta))),
            held=held,
            damping=damping,
        )
        step = model.solve(gradient)
        gain = -(gradient * step).sum(1)
        trial = np.clip(theta + _shorten(step, law.longest_step), low, high)
        tried = law.shares(trial, rows)
        reached = (weights * huber(rows.y - tried.f, delta)).sum(1)

        # Residuals inside delta are stiff, and f bends under a straight step (the Maratos effect): correct for the bend.
        bend = quadratic * (tried.f - at.f - law.along(at, rows, trial - theta))
        bent = np.clip(trial + _shorten(model.solve(law.gradient(at, rows, bend)), law.longest_step), low, high)
        bent_at = law.shares(bent, rows)
        bent_reached = (weights * huber(rows.y - bent_at.f, delta)).sum(1)
        straighter = bent_reached < reached
        trial, tried = np.where(straighter[:, None], bent, trial), Shares.select(straighter, bent_at, tried)
        reached = np.where(straighter, bent_reached, reached)

        better = reached < objective
        damping = np.where(better, np.maximum(damping * 0.2, 1e-9), damping * 6.0)
        theta, at = np.where(better[:, None], trial, theta), Shares.select(better, tried, at)
        objective = np.where(better, reached, objective)
        residual = rows.y - at.f
        found.theta[live], found.objective[live], found.gradient[live] = theta, objective, norm

        done = (norm < GRADIENT_TOLERANCE) | (damping > 1e12) | (~better & (gain < 1e-15 * objective))
        done |= objective < NOISELESS * weights.sum(1)
        if done.all():
            break
        if done.any():
            on = ~done
            live, theta, objective, damping = live[on], theta[on], objective[on], damping[on]
            weights, residual, at = weights[on], residual[on], at.keep(on)
    return found


@dataclass(frozen=True)
class _Model:
    """The damped quadratic model of the objective as its inverse: basis diag(1/strength) basis^T, (S, p, p) and (S, p)."""

    basis: Array
    strength: Array

    def solve(self, gradient: Array) -> Array:
        slope = np.swapaxes(self.basis, 1, 2) @ gradient[:, :, None] / self.strength[:, :, None]
        step: Array = -(self.basis @ slope)[:, :, 0]
        return step


def _model(hessian: Array, metric: Array, held: npt.NDArray[np.bool_], damping: Array) -> _Model:
    """The Hessian's eigenvalues, taken positive and damped, where the metric (the curvature of IRLS) is the identity.

    The metric bounds the Hessian from above but for the curvature of f, so that damping 1 is a step of iteratively reweighted least
    squares and damping 0 one of Newton. Parameters held at a bound do not move.
    """
    free = ~held
    scale = np.sqrt(np.maximum(np.einsum("sii->si", metric), 1e-300))
    scaled = np.where(free[:, :, None] & free[:, None, :], metric / (scale[:, :, None] * scale[:, None, :]), 0.0)
    values, vectors = np.linalg.eigh(scaled)
    whiten = vectors / np.sqrt(np.maximum(values, 1e-9))[:, None, :] * (free / scale)[:, :, None]
    curved, turn = np.linalg.eigh(np.swapaxes(whiten, 1, 2) @ hessian @ whiten)
    return _Model(whiten @ turn, np.maximum(np.abs(curved), 1e-9) + damping[:, None])


def _shorten(step: Array, longest: Array) -> Array:
    over: Array = np.max(np.abs(step) / longest, axis=1, keepdims=True)
    return step / np.maximum(1.0, over)
