"""What the runs of most compute say of the forecast: fitted without them, and then compared with them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..catalogue import STACKED
from ..forecasts.chaining import folds
from ..forecasts.forecast import forecast
from ..laws import Array, FitError
from ..study import Study
from .runs import Which

DECADE = float(np.log(10.0))


@dataclass(frozen=True)
class HeldOut:
    """Forecasts (k,) of the runs `rows` of the table, in nats per token, from the runs of at most `trained` FLOPs."""

    rows: Which
    loss: Array
    low: Array
    high: Array
    trained: float
    n_trained: int
    measured: Array

    @property
    def inside(self) -> npt.NDArray[np.bool_]:
        """Whether each measured loss lies in its interval (k,)."""
        return np.asarray((self.low <= self.measured) & (self.measured <= self.high))


def held_out(study: Study) -> HeldOut | None:
    """The fold of forward chaining whose largest C lies nearest a decade below that of the table; None where there is none, or
    where its runs allow no forecast.

    The forecast is made as that of the fit, and sees nothing of the runs that it is compared with.
    """
    if study.forecast is None:
        return None
    fit, table = study.fit, study.table
    trained = folds(fit.rows)[1:]
    if not len(trained):
        return None
    C = np.log(6.0) + np.log(table.N) + np.log(table.D)
    reach = np.array([C.max() - C[seen].max() for seen in trained])
    seen = trained[int(np.abs(reach - DECADE).argmin())]
    errors = None if fit.errors is None else fit.errors[seen]
    try:
        made = forecast(fit.rows.take(np.flatnonzero(seen)), STACKED, se=errors, seed=fit.seed)
    except FitError:
        return None
    rows = np.flatnonzero(~seen)
    loss, low, high = made.interval(table.N[rows], table.D[rows])
    return HeldOut(rows, loss, low, high, float(np.exp(C[seen].max())), int(seen.sum()), table.loss[rows])
