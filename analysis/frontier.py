from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Points:
    """Compute-optimal points: arrays of shape (k,) in the order of the budgets; bands of shape (k, 2), None without a bootstrap."""

    C: Array
    N: Array
    D: Array
    loss: Array
    tokens_per_parameter: Array
    N_ci95: Array | None
    D_ci95: Array | None
    loss_ci95: Array | None
    tokens_per_parameter_ci95: Array | None


@dataclass(frozen=True)
class Frontier:
    """N*(C) ~ C^a and D*(C) ~ C^b with 95 % bootstrap intervals (None without a bootstrap), and the points at a few budgets."""

    a: float
    b: float
    a_ci95: tuple[float, float] | None
    b_ci95: tuple[float, float] | None
    budgets: Points
