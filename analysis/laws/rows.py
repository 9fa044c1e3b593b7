"""The runs as a law and the optimiser see them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
FLOPS_PER_PARAMETER_AND_TOKEN = 6.0


class FitError(ValueError):
    """A law cannot be fitted or used as asked, or a file is not a fit; the message is one line."""

    exit_code = 2


@dataclass(frozen=True)
class Rows:
    """x = log N and z = log D, both centred, and y = log L; arrays of shape (n,).

    `weight` is what each run counts for, 1 unless its noise is known; `unique` is log U in the coordinates of z, where U is the number of
    unique tokens of each run. y may also be (S, n), one set of losses for each problem of a batch.
    """

    x: Array
    z: Array
    y: Array
    x_mean: float
    z_mean: float
    weight: Array
    unique: Array | None = None

    @classmethod
    def of(cls, N: Array, D: Array, loss: Array, unique: Array | None = None, weight: Array | None = None) -> Rows:
        """N parameters, D tokens, loss in nats per token, U unique tokens and relative weights, each (n,) and positive."""
        x, z = np.log(N), np.log(D)
        x_mean, z_mean = float(x.mean()), float(z.mean())
        counts = np.ones(len(x)) if weight is None else np.asarray(weight, dtype=np.float64)
        u = None if unique is None else np.log(unique) - z_mean
        return cls(x - x_mean, z - z_mean, np.log(loss), x_mean, z_mean, counts, u)

    @property
    def c(self) -> Array:
        """log C for C = 6 N D, centred."""
        return self.x + self.z

    @property
    def c_mean(self) -> float:
        return self.x_mean + self.z_mean + float(np.log(FLOPS_PER_PARAMETER_AND_TOKEN))

    def take(self, rows: npt.NDArray[np.intp]) -> Rows:
        """A subset of the runs in the same coordinates."""
        unique = None if self.unique is None else self.unique[rows]
        x, z, y, weight = self.x[rows], self.z[rows], self.y[..., rows], self.weight[rows]
        return Rows(x, z, y, self.x_mean, self.z_mean, weight, unique)

    def problems(self, which: npt.NDArray[np.intp] | npt.NDArray[np.bool_] | slice) -> Rows:
        """The runs as some problems of a batch see them: their own losses, if they have such."""
        return self if self.y.ndim == 1 else replace(self, y=self.y[which])

    def with_losses(self, y: Array) -> Rows:
        """The same runs with other log-losses, (n,) or (S, n): for a residual bootstrap or a simulation."""
        return replace(self, y=y)
