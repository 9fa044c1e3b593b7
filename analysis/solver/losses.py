"""What a residual r = log L - log L-hat costs: the losses that a law can be fitted under."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..laws import Array

NORMAL_MAD = 1.4826  # standard deviation over median absolute deviation of normal noise
SOFTEST = 0.03  # Huber's delta after least squares; the next stages are about a factor of three apart
SHARPEST = 1e-9  # the absolute value is smooth within this of zero


class Loss(Protocol):
    """Elementwise functions of residuals of any shape, and the softer losses that lead to this one."""

    def value(self, r: Array) -> Array: ...

    def slope(self, r: Array) -> Array:
        """The first derivative."""

    def curvature(self, r: Array) -> Array:
        """The second derivative."""

    def reweighting(self, r: Array) -> Array:
        """slope/r, the weight of iteratively reweighted least squares: a parabola of this curvature lies above the loss."""

    def stages(self) -> tuple[Loss, ...]:
        """Least squares first and this loss last: each is minimised from the optimum of the one before."""


@dataclass(frozen=True)
class LeastSquares:
    """r^2/2."""

    def value(self, r: Array) -> Array:
        return 0.5 * r * r

    def slope(self, r: Array) -> Array:
        return r

    def curvature(self, r: Array) -> Array:
        return np.ones_like(r)

    def reweighting(self, r: Array) -> Array:
        return np.ones_like(r)

    def stages(self) -> tuple[Loss, ...]:
        return (self,)


@dataclass(frozen=True)
class Huber:
    """r^2/2 inside |r| <= delta, delta (|r| - delta/2) outside (Huber 1964); Hoffmann et al. 2022 take delta = 1e-3."""

    delta: float

    def value(self, r: Array) -> Array:
        inside = np.clip(r, -self.delta, self.delta)
        return inside * (r - 0.5 * inside)

    def slope(self, r: Array) -> Array:
        return np.clip(r, -self.delta, self.delta)

    def curvature(self, r: Array) -> Array:
        return (np.abs(r) <= self.delta).astype(np.float64)

    def reweighting(self, r: Array) -> Array:
        return self.delta / np.maximum(np.abs(r), self.delta)

    def stages(self) -> tuple[Loss, ...]:
        return (LeastSquares(), *(Huber(delta) for delta in deltas(self.delta)))


@dataclass(frozen=True)
class LeastAbsolute:
    """|r|, rounded off within 1e-9 of zero."""

    def value(self, r: Array) -> Array:
        return Huber(SHARPEST).value(r) / SHARPEST

    def slope(self, r: Array) -> Array:
        return Huber(SHARPEST).slope(r) / SHARPEST

    def curvature(self, r: Array) -> Array:
        return Huber(SHARPEST).curvature(r) / SHARPEST

    def reweighting(self, r: Array) -> Array:
        return Huber(SHARPEST).reweighting(r) / SHARPEST

    def stages(self) -> tuple[Loss, ...]:
        return (*Huber(SHARPEST).stages()[:-1], self)


@dataclass(frozen=True)
class AsymmetricHuber:
    """2 tau Huber above the curve (r > 0) and 2 (1 - tau) Huber below, 0 < tau < 1: Dabney et al. 2018 (arXiv 1710.10044), equation 10.

    A small tau fits the lower edge of the runs: one that was trained badly lies above the law, and none lies far below.
    """

    delta: float
    tau: float

    def value(self, r: Array) -> Array:
        return self._side(r) * Huber(self.delta).value(r)

    def slope(self, r: Array) -> Array:
        return self._side(r) * Huber(self.delta).slope(r)

    def curvature(self, r: Array) -> Array:
        return self._side(r) * Huber(self.delta).curvature(r)

    def reweighting(self, r: Array) -> Array:
        return self._side(r) * Huber(self.delta).reweighting(r)

    def stages(self) -> tuple[Loss, ...]:
        return (LeastSquares(), *(AsymmetricHuber(delta, self.tau) for delta in deltas(self.delta)))

    def _side(self, r: Array) -> Array:
        return np.where(r > 0.0, 2.0 * self.tau, 2.0 * (1.0 - self.tau))


def as_loss(loss: Loss | float) -> Loss:
    """A number is the delta of log-Huber."""
    return Huber(float(loss)) if isinstance(loss, int | float) else loss


def huber(r: Array, delta: float) -> Array:
    """Huber's loss of each residual, elementwise."""
    return Huber(delta).value(r)


def deltas(delta: float) -> list[float]:
    """The continuation in Huber's delta: from 0.03 down to `delta` by about a factor of three, or `delta` alone."""
    if delta >= SOFTEST:
        return [delta]
    stages = int(np.ceil(np.log(SOFTEST / delta) / np.log(3.2)))
    return [*(float(d) for d in np.geomspace(SOFTEST, delta, stages + 1)[:-1]), delta]
