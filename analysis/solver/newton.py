"""Batched damped Newton with exact gradients and Hessians: many starts, or many bootstrap resamples, refined at once.

Objective (a SUM over runs, as in Hoffmann et al. 2022, section 3.3): sum of w * loss(log L - log L-hat).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..laws import Array, FitError, Law, Rows
from .losses import Loss, as_loss

Mask = npt.NDArray[np.bool_]
Places = npt.NDArray[np.intp]

TOLERANCE = 1e-14  # stop where a Newton step would lower the objective by less than this part of it
NOISELESS = 1e-26  # a mean objective below this is rounding error
STUCK = 1e10  # damping at which no step lowers the objective any more
REFUSED = 5e-2  # damping after two refusals
BLOCK = 1 << 15  # elements of one (problems, runs) array: a dozen of them stay in a core's cache
HEAP = 1 << 24  # bytes


@dataclass(frozen=True)
class Minima:
    """theta (S, p), objective (S,), and gradient (S,): the largest component of the projected gradient over sum of w |slope|."""

    theta: Array
    objective: Array
    gradient: Array

    def take(self, which: Places | Mask) -> Minima:
        return Minima(self.theta[which], self.objective[which], self.gradient[which])

    def put(self, which: Places, others: Minima) -> Minima:
        """These minima with `others` in the places `which`."""
        return Minima(
            _put(self.theta, which, others.theta),
            _put(self.objective, which, others.objective),
            _put(self.gradient, which, others.gradient),
        )


def minimise(
    law: Law,
    rows: Rows,
    weights: Array,
    starts: Array,
    loss: Loss | float,
    iterations: int = 300,
    tolerance: float = TOLERANCE,
    bounds: tuple[Array, Array] | None = None,
) -> Minima:
    """The local minimum from every start (S, p) under row weights (S, n) or (1, n), in place of `rows.weight`.

    A number for `loss` is the delta of log-Huber. `bounds`, each (p,) or (S, p), default to the law's; equal bounds hold a parameter, as
    a profile likelihood does. Steps are those of Levenberg and Marquardt with the exact Hessian: damped by the curvature of reweighted
    least squares, corrected for the bend of the law where they fail, and shorter after each refusal. Raises FitError.
    """
    np.empty(
        HEAP, dtype=np.uint8
    )  # taken and given back: glibc then reuses freed blocks instead of mapping fresh pages (10 x slower)
    low, high = (np.broadcast_to(bound, starts.shape) for bound in bounds or law.bounds(rows))
    problems = _Problems(law, rows, weights, as_loss(loss), low, high)
    theta = problems.within(starts)
    damping = np.full(len(theta), 1e-3)
    here = problems.at(theta)
    if not np.isfinite(here.objective).all():
        raise FitError(f"the {law.name} law cannot be evaluated on these runs: their N or D span too many decades")
    found = Minima(theta.copy(), here.objective.copy(), np.full(len(theta), np.inf))
    live = np.arange(len(theta))
    for iteration in range(iterations + 1):
        held = problems.held(theta, here.gradient)
        gradient = np.where(held, 0.0, here.gradient)
        found.theta[live], found.objective[live] = theta, here.objective
        found.gradient[live] = np.abs(gradient).max(1, initial=0.0) / (here.slope + 1e-14 * here.weight)
        model = _Model.of(here, held, damping)
        step = model.step(gradient)
        gain = -0.5 * (gradient * step).sum(1)
        on = (gain >= tolerance * here.objective) & (damping < STUCK) & (here.objective > NOISELESS * here.weight)
        if iteration == iterations or not on.any():
            break
        if not on.all():
            live, theta, damping, step, gain = live[on], theta[on], damping[on], step[on], gain[on]
            problems, here, model = problems.take(on), here.take(on), model.take(on)
        trial = problems.within(theta + _shorten(step, law))
        there = problems.at(trial)
        refused = np.flatnonzero(~(there.objective < here.objective) & (damping > REFUSED))
        if len(refused):
            bent = _corrected(problems.take(refused), model.take(refused), theta[refused], trial[refused])
            trial, there = _put(trial, refused, bent), there.put(refused, problems.take(refused).at(bent))
        fall = here.objective - there.objective
        calmer = np.where(fall > 0.5 * gain, np.maximum(0.1 * damping, 1e-10), damping)
        damping = np.where(fall > 0.0, calmer, 8.0 * np.maximum(damping, 1e-4))
        better = np.flatnonzero(fall > 0.0)
        theta, here = _put(theta, better, trial[better]), here.put(better, there.take(better))
    return found


@dataclass(frozen=True)
class Point:
    """The objective (S,) at theta with its exact gradient (S, p) and Hessian (S, p, p), and the sums over runs that scale them.

    `metric` (S, p, p) is the curvature of reweighted least squares, never indefinite; slope (S,) is sum of w |slope|, weight (S,) of w.
    """

    objective: Array
    gradient: Array
    hessian: Array
    metric: Array
    slope: Array
    weight: Array

    @classmethod
    def of(cls, law: Law, rows: Rows, weights: Array, theta: Array, loss: Loss) -> Point:
        """theta (S, p), weights (S, n) or (1, n)."""
        at = law.shares(theta, rows)
        r, J = rows.y - at.f, at.jacobian()
        transposed = np.swapaxes(J, 1, 2)
        slope = weights * loss.slope(r)
        bent, reweighted = weights * loss.curvature(r) + slope, weights * loss.reweighting(r)
        return cls(
            objective=np.vecdot(loss.value(r), weights),
            gradient=-(J @ slope[:, :, None])[..., 0],
            hessian=(J * bent[:, None]) @ transposed - at.bend(slope),
            metric=(J * reweighted[:, None]) @ transposed,
            slope=np.abs(slope).sum(1),
            weight=np.broadcast_to(weights.sum(1), len(theta)),
        )

    @classmethod
    def joined(cls, parts: list[Point]) -> Point:
        return cls(*(np.concatenate(values) for values in zip(*(part._all() for part in parts), strict=True)))

    def take(self, which: Mask | Places) -> Point:
        return Point(*(values[which] for values in self._all()))

    def put(self, which: Places, others: Point) -> Point:
        return Point(*(_put(mine, which, new) for mine, new in zip(self._all(), others._all(), strict=True)))

    def _all(self) -> tuple[Array, ...]:
        return self.objective, self.gradient, self.hessian, self.metric, self.slope, self.weight


@dataclass(frozen=True)
class _Problems:
    """Everything that stays as it is while theta moves: weights (S, n) or (1, n), low and high (S, p)."""

    law: Law
    rows: Rows
    weights: Array
    loss: Loss
    low: Array
    high: Array

    def at(self, theta: Array) -> Point:
        """In blocks of problems, so that what is computed for each run stays in the cache."""
        return Point.joined([part._at(theta[block]) for block, part in self.blocks()])

    def _at(self, theta: Array) -> Point:
        return Point.of(self.law, self.rows, self.weights, theta, self.loss)

    def blocks(self) -> Iterator[tuple[slice, _Problems]]:
        size = max(1, BLOCK // len(self.rows.x))
        for first in range(0, len(self.low), size):
            block = slice(first, first + size)
            yield block, self.take(block)

    def within(self, theta: Array) -> Array:
        return np.clip(theta, self.low, self.high)

    def held(self, theta: Array, gradient: Array) -> Mask:
        """Which parameters are at a bound that they would leave."""
        held: Mask = ((theta <= self.low) & (gradient >= 0)) | ((theta >= self.high) & (gradient <= 0))
        return held

    def take(self, which: Mask | Places | slice) -> _Problems:
        weights = self.weights[which] if len(self.weights) > 1 else self.weights
        return _Problems(self.law, self.rows.problems(which), weights, self.loss, self.low[which], self.high[which])


@dataclass(frozen=True)
class _Model:
    """The damped Hessian (S, p, p) in parameters times 1/scale (S, p); scale is 0 for those that do not move."""

    matrix: Array
    scale: Array

    @classmethod
    def of(cls, here: Point, held: Mask, damping: Array) -> _Model:
        """The Hessian and `damping` times the metric.

        Where that is not positive definite, the metric stands in for the Hessian: a step of reweighted least squares, always downhill.
        """
        size = np.sqrt(np.einsum("sii->si", here.metric))
        size = np.where(size > 1e-100, size, 1.0)  # a term that has vanished
        scale = np.where(held, 0.0, 1.0 / size)
        both, factor = scale[:, :, None] * scale[:, None, :], damping[:, None, None]
        ridge = np.eye(held.shape[1]) * (held + 1e-10)[:, None, :]  # of rounding size, but for what is held
        metric = here.metric * both + ridge
        matrix = here.hessian * both + factor * metric + ridge
        definite = _positive_definite(matrix)
        return cls(np.where(definite[:, None, None], matrix, (1.0 + factor) * metric), scale)

    def step(self, gradient: Array) -> Array:
        """To the minimum of the model, (S, p)."""
        step: Array = np.linalg.solve(self.matrix, -(gradient * self.scale)[:, :, None])[..., 0] * self.scale
        return step

    def take(self, which: Mask | Places) -> _Model:
        return _Model(self.matrix[which], self.scale[which])


def _corrected(problems: _Problems, model: _Model, theta: Array, trial: Array) -> Array:
    """The trial point moved back onto the curve: residuals near zero are stiff, and log L-hat bends under a straight step (Maratos)."""
    pulls = []
    for block, part in problems.blocks():
        here, there = part.law.shares(theta[block], part.rows), part.law.shares(trial[block], part.rows)
        J = here.jacobian()
        bend = there.f - here.f - ((trial - theta)[block, None] @ J)[:, 0]
        stiff = part.weights * part.loss.curvature(part.rows.y - here.f)
        pulls.append((J @ (stiff * bend)[:, :, None])[..., 0])
    return problems.within(trial + _shorten(model.step(np.concatenate(pulls)), problems.law))


def _shorten(step: Array, law: Law) -> Array:
    over: Array = np.max(np.abs(step) / law.longest_step, axis=1, keepdims=True)
    return step / np.maximum(1.0, over)


def _put(values: Array, which: Places, new: Array) -> Array:
    changed = values.copy()
    changed[which] = new
    return changed


def _positive_definite(A: Array) -> Mask:
    """Whether all pivots of Gaussian elimination are positive, for A (S, p, p): (S,)."""
    rest = np.array(A.transpose(1, 2, 0), order="C")
    lowest = rest[0, 0]
    with np.errstate(
        divide="ignore", over="ignore", invalid="ignore"
    ):  # past a pivot that is not positive anything goes
        for _ in range(len(rest) - 1):
            rest = rest[1:, 1:] - rest[1:, :1] * (rest[:1, 1:] / rest[0, 0])
            lowest = np.minimum(lowest, rest[0, 0])
    definite: Mask = lowest > 1e-14
    return definite
