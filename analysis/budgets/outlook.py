"""What a fit says of budgets: the compute-optimal run at each, what a smaller model costs there, and where unique text runs out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..catalogue import guarded
from ..laws import Chinchilla, FitError
from ..predict import FitFile, optimal_points, predict_rows, warnings
from .budget import Budget, Machine, flops_of
from .datawall import HIGH_QUALITY_TEXT, DataWall, Stock, data_wall
from .frontier import Points
from .overtrain import OverTraining, overtraining


@dataclass(frozen=True)
class Outlook:
    """Budgets (k) with the optimum at each; `runs` hold the predictive interval of a new run there, as `predict_rows` gives it.

    Over-training and the data wall are None for other laws than Chinchilla's.
    """

    fit: FitFile
    budgets: tuple[Budget, ...]
    points: Points
    runs: tuple[dict[str, float | None], ...]
    overtraining: tuple[OverTraining, ...] | None
    data_wall: DataWall | None
    warnings: tuple[dict[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        """a, b with intervals, `points` (a dictionary a budget), data_wall, warnings."""
        points = []
        for k, point in enumerate(self.points.to_json()):
            run = {f"run_{end}": self.runs[k][end] for end in ("loss", "lo95", "hi95")}
            over = None if self.overtraining is None else self.overtraining[k].to_json()
            points.append(point | run | {"budget": self.budgets[k].to_json(), "overtraining": over})
        edge = self.fit.frontier
        return {
            "law": self.fit.law,
            "a": edge.a,
            "b": edge.b,
            "a_ci95": edge.a_ci95,
            "b_ci95": edge.b_ci95,
            "points": points,
            "data_wall": None if self.data_wall is None else self.data_wall.to_json(),
            "warnings": list(self.warnings),
        }


@guarded()
def outlook(fit: FitFile, budgets: Sequence[Budget], machine: Machine, unique_tokens: float | None = None) -> Outlook:
    """The fit at `budgets`, those of its file if there are none; `unique_tokens` replaces the world's stock of high-quality text.

    Raises FitError where the law has no compute-optimal point.
    """
    if not budgets:
        budgets = [flops_of(f"{budget.C:.15g}", machine) for budget in fit.frontier.budgets]
    C = np.array([budget.flops for budget in budgets])
    if not len(C):
        raise FitError("frontier: the file names no budgets; give one")
    points = optimal_points(fit, C)
    theta, samples = fit.theta, fit.theta_samples
    chinchilla = isinstance(fit.model, Chinchilla)
    stock = HIGH_QUALITY_TEXT
    if unique_tokens is not None:
        stock = Stock(unique_tokens, unique_tokens, 0.0, stock.year, f"{unique_tokens:.3g} unique tokens, as given")
    found = [warning for k in range(len(C)) for warning in warnings(fit, C=C[k], N=points.N[k], D=points.D[k])]
    return Outlook(
        fit=fit,
        budgets=tuple(budgets),
        points=points,
        runs=tuple(predict_rows(fit, points.N, points.D)),
        overtraining=tuple(overtraining(theta, samples, float(c)) for c in C) if chinchilla else None,
        data_wall=data_wall(theta, samples, stock) if chinchilla else None,
        warnings=tuple(dict(one) for one in dict.fromkeys(tuple(warning.items()) for warning in found)),
    )
