from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .frontier import Frontier, Points
from .table import RunTable
from .verdicts import Verdict

Array = npt.NDArray[np.float64]


class FitError(ValueError):
    """The law cannot be fitted to this table; the message is one line."""


@dataclass(frozen=True)
class Fit:
    law: str
    n_runs: int
    delta: float
    objective: float
    params: dict[str, float]  # A, B, E, alpha, beta
    se: dict[str, float]  # empty when bootstrap=0
    ci95: dict[str, tuple[float, float]]  # empty when bootstrap=0
    frontier: Frontier
    residuals: Array  # (n,) log L - log L-hat, in the order of the table
    samples: Array  # (bootstrap, 5): A, B, E, alpha, beta; shape (0, 5) when bootstrap=0
    warnings: tuple[Verdict, ...]
    seed: int
    starts_agreeing: int
    gradient_norm: float

    def predict(self, N: npt.ArrayLike, D: npt.ArrayLike) -> Array:
        """L(N, D); broadcasts."""
        raise NotImplementedError

    def optimal(self, C: npt.ArrayLike) -> Points:
        """The compute-optimal points at budgets C (k,) with bootstrap bands: what a figure of the frontier draws."""
        raise NotImplementedError

    def to_json(self) -> dict[str, object]:
        raise NotImplementedError


def fit(table: RunTable, *, delta: float = 1e-3, bootstrap: int = 1000, seed: int = 0) -> Fit:
    raise NotImplementedError
