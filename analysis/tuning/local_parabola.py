"""The minimum of a noisy curve near its lowest point: a local parabola by weighted least squares.

Weights are tricube in the distance from the lowest measured point (Cleveland 1979, "Robust locally weighted regression"), 0
from BANDWIDTH octaves on, times a Cauchy factor in the loss above it: a loss over learning rate ends in a cliff above its
optimum, the nearer the larger the model, and points that have risen as far would pull the vertex down (LOG.md).
Shape suffixes: P points of the curve that have a weight, all of one noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
BANDWIDTH = 2.5  # octaves: at steps of 2x the lowest point and two on each side, weights 1, .82 and .12
RISE = 0.1  # nats: above the lowest point by as much, a point has a quarter of its weight
FEWEST = 3
CONVEX = 2.0  # standard errors that the curvature must be above zero


@dataclass(frozen=True)
class LocalParabola:
    """y = lowest + curvature · (x - vertex)²; x in octaves (log2), y in nats."""

    x_P: Array
    residual_P: Array
    vertex: float
    lowest: float
    curvature: float
    gain_3P: Array  # (3, P): the parameters of y ~ b0 + b1·(x - centre) + b2·(x - centre)² as sums over the points
    slope: float  # b1
    squares: float  # weighted residuals squared and summed; its expectation is noise² · freedom
    freedom: float

    @classmethod
    def through(cls, x: Array, y: Array) -> Self | None:
        """Fitted around the lowest of the finite points; None where fewer than three have a weight."""
        finite = np.isfinite(y)
        if finite.sum() < FEWEST:
            return None
        x, y = x[finite], y[finite]
        centre = x[np.argmin(y)]
        weight = np.clip(1 - (np.abs(x - centre) / BANDWIDTH) ** 3, 0, None) ** 3
        weight /= (1 + ((y - y.min()) / RISE) ** 2) ** 2
        near = weight > 0
        x, y, weight = x[near], y[near], weight[near]
        if len(np.unique(x)) < FEWEST:
            return None
        design_P3 = np.stack([np.ones_like(x), x - centre, (x - centre) ** 2], axis=1)
        gain_3P = np.linalg.solve(design_P3.T @ (weight[:, None] * design_P3), design_P3.T * weight)
        b0, b1, b2 = gain_3P @ y
        residual_P = y - design_P3 @ np.array([b0, b1, b2])
        shift = -b1 / (2 * b2) if b2 else np.inf
        return cls(
            x_P=x,
            residual_P=residual_P,
            vertex=float(centre + shift),
            lowest=float(b0 + b1 * shift / 2) if b2 else float(b0),
            curvature=float(b2),
            gain_3P=gain_3P,
            slope=float(b1),
            squares=float(weight @ residual_P**2),
            freedom=float(weight.sum() - np.trace(gain_3P @ (weight[:, None] * design_P3))),
        )

    def is_convex(self, noise: float) -> bool:
        """Whether the curvature is positive beyond doubt; `noise` is the standard deviation of one point, in nats."""
        return self.curvature > CONVEX * noise * float(np.sqrt(self.gain_3P[2] @ self.gain_3P[2]))

    def vertex_se(self, noise: float) -> float:
        """Standard error of the vertex in octaves, by the delta method."""
        b1, b2 = self.slope, self.curvature
        return self._se(np.array([0.0, -1 / (2 * b2), b1 / (2 * b2**2)]), noise)

    def lowest_se(self, noise: float) -> float:
        """Standard error of the loss at the vertex, in nats."""
        shift = -self.slope / (2 * self.curvature)
        return self._se(np.array([1.0, shift, shift**2]), noise)

    def _se(self, gradient: Array, noise: float) -> float:
        along_P = gradient @ self.gain_3P
        return noise * float(np.sqrt(along_P @ along_P))
