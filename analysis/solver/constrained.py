"""Minima of the objective with a functional of the parameters held at a value, many values at once: what a profile consists of.

The functional is held by a stiff spring, not exactly: the minimum of objective + strength/2 (g(theta) - target)^2 is that of the objective
alone among all theta with the g it ends at, so that a profile drawn over the g reached is exact whatever the strength.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..laws import Array, Law, Rows
from .losses import Loss
from .newton import Point

Functional = Callable[[Array], Array]  # theta (S, p) -> finite values (S,)

BLOCK = 1 << 15  # elements of one (problems, runs) array: a dozen of them stay in a core's cache
ITERATIONS = 100
GRADIENT_TOLERANCE = 1e-7  # of the sum of |slope|
STUCK = 1e8  # a damping at which no step lowers the objective any more
STEP = 1e-5  # of the central differences


@dataclass(frozen=True)
class Pull:
    """The spring strength/2 (of(theta) - target)^2 of each problem: target (S,)."""

    of: Functional
    target: Array
    strength: float

    def take(self, kept: npt.NDArray[np.bool_] | slice) -> Pull:
        return Pull(self.of, self.target[kept], self.strength)

    def value(self, theta: Array) -> Array:
        miss = self.of(theta) - self.target
        return np.asarray(0.5 * self.strength * miss * miss)

    def stretch(self, theta: Array, at: Point) -> tuple[Array, Array, Array]:
        """The point's gradient, Hessian and metric with the spring's added (Gauss-Newton)."""
        along = slope(self.of, theta)
        force = self.strength * (self.of(theta) - self.target)
        stiff = self.strength * along[:, :, None] * along[:, None, :]
        return at.gradient + force[:, None] * along, at.hessian + stiff, at.metric + stiff


def pulled_minima(law: Law, rows: Rows, starts: Array, loss: Loss, pull: Pull) -> Array:
    """theta (S, p) of the minimum near each start (S, p) of objective + spring."""
    size = max(1, BLOCK // len(rows.x))
    blocks = (slice(first, first + size) for first in range(0, len(starts), size))
    return np.concatenate([_pulled(law, rows, starts[block], loss, pull.take(block)) for block in blocks])


def objective(law: Law, rows: Rows, theta: Array, loss: Loss) -> Array:
    """The sum over runs of weight * loss(log L - log L-hat) at theta (S, p): (S,)."""
    return np.asarray(loss.value(rows.y - law.shares(theta, rows).f) @ rows.weight)


def slope(of: Functional, theta: Array) -> Array:
    """The gradient of a functional at theta (S, p) by central differences: (S, p)."""
    count, p = theta.shape
    steps = STEP * np.concatenate([np.eye(p), -np.eye(p)])
    moved = (theta[:, None, :] + steps).reshape(-1, p)  # one call for all of them: each costs more than its numbers
    ahead, behind = np.split(of(moved).reshape(count, 2 * p), 2, axis=1)
    return np.asarray((ahead - behind) / (2 * STEP))


def _pulled(law: Law, rows: Rows, starts: Array, loss: Loss, pull: Pull) -> Array:
    """Newton's step, damped by the metric, its eigenvalues taken positive: saddles between two valleys do not hold it up."""
    low, high = law.bounds(rows)
    weights = rows.weight[None]
    theta = np.clip(starts, low, high)
    at = Point.of(law, rows, weights, theta, loss)
    value, damping = at.objective + pull.value(theta), np.full(len(theta), 1e-2)
    found, live = theta.copy(), np.arange(len(theta))
    for _ in range(ITERATIONS):
        gradient, hessian, metric = pull.stretch(theta, at)
        held = ((theta <= low) & (gradient > 0)) | ((theta >= high) & (gradient < 0))
        gradient[held] = 0.0
        step = _newton_step(gradient, hessian, metric, ~held, damping)
        step /= np.maximum(1.0, np.max(np.abs(step) / law.longest_step, axis=1, keepdims=True))
        trial = np.clip(theta + step, low, high)
        there = Point.of(law, rows, weights, trial, loss)
        reached = there.objective + pull.value(trial)
        better = reached < value
        damping = np.where(better, np.maximum(0.2 * damping, 1e-9), 6.0 * damping)
        moved = np.flatnonzero(better)
        theta[moved], at, value = trial[moved], at.put(moved, there.take(moved)), np.where(better, reached, value)
        found[live] = theta
        on = (np.abs(gradient).max(axis=1) > GRADIENT_TOLERANCE * at.slope) & (damping < STUCK)
        if not on.any():
            break
        live, theta, at, value, damping, pull = live[on], theta[on], at.take(on), value[on], damping[on], pull.take(on)
    return found


def _newton_step(gradient: Array, hessian: Array, metric: Array, free: npt.NDArray[np.bool_], damping: Array) -> Array:
    """-(|H| + damping M)^-1 gradient over the free parameters, with H's eigenvalues taken positive where the metric M is the identity."""
    scale = np.sqrt(np.maximum(np.einsum("sii->si", metric), 1e-300))
    both = free[:, :, None] & free[:, None, :]
    values, vectors = np.linalg.eigh(np.where(both, metric / (scale[:, :, None] * scale[:, None, :]), 0.0))
    whiten = vectors / np.sqrt(np.maximum(values, 1e-10))[:, None, :] * (free / scale)[:, :, None]
    curved, turn = np.linalg.eigh(np.swapaxes(whiten, 1, 2) @ hessian @ whiten)
    basis = whiten @ turn
    along = np.swapaxes(basis, 1, 2) @ gradient[:, :, None]
    strength = np.maximum(np.abs(curved), 1e-9) + damping[:, None]
    return np.asarray(-(basis @ (along / strength[:, :, None]))[:, :, 0])
