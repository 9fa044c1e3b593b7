"""The fit as a file, and predictions from it: nothing of the run table is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .budgets.frontier import Points, optimal, optimal_of
from .catalogue import LAWS, STACKED, guarded
from .forecasts.forecast import Forecast
from .laws import FLOPS_PER_PARAMETER_AND_TOKEN, Array, Chinchilla, FitError, Law
from .uncertainty.intervals import ci95
from .verdicts import Verdict, extrapolation

SAMPLES_KEPT = 200

Interval = tuple[float | None, float | None]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)  # a newer sixnd may add keys


class Budget(_Part):
    C: float
    N: float | None
    D: float | None
    loss: float | None
    tokens_per_parameter: float | None
    N_ci95: Interval | None = None
    D_ci95: Interval | None = None
    loss_ci95: Interval | None = None
    tokens_per_parameter_ci95: Interval | None = None


class FrontierPart(_Part):
    a: float | None
    b: float | None
    a_ci95: Interval | None
    b_ci95: Interval | None
    budgets: tuple[Budget, ...] = ()


class Warned(_Part):
    code: str
    message: str


class Certificate(_Part):
    """What says that the optimum is the global one: see `optimize.Optimum`."""

    starts: int
    agreeing: int
    gradient_norm: float
    condition: float | None


class FitFile(_Part):
    """fit.json. `samples` holds at most 200 of the bootstrap's parameters, in the order of `params`; `ranges` the span of N, D, C fitted.

    `forecast` is what `Forecast.from_json` reads, None without a bootstrap and in files of older versions.
    """

    law: str
    n_runs: int
    objective: float
    params: dict[str, float]
    se: dict[str, float | None] | None
    ci95: dict[str, Interval] | None
    frontier: FrontierPart
    warnings: tuple[Warned, ...]
    delta: float = 1e-3
    bootstrap: int = 0
    seed: int = 0
    rms_log_residual: float | None = None
    certificate: Certificate | None = None
    columns: dict[str, str] = Field(default_factory=dict)
    ranges: dict[str, Interval] = Field(default_factory=dict)
    samples: tuple[tuple[float | None, ...], ...] = ()
    loss: dict[str, str | float] = Field(default_factory=dict)
    resampling: str | None = None
    notes: tuple[str, ...] = ()
    seed_sd: float | None = None
    clusters: int | None = None
    forecast: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _is_of_a_law(self) -> FitFile:
        law = next((law for law in LAWS if law.name == self.law), None)
        if law is None:
            raise ValueError(f"law {self.law!r} is unknown; allowed are {', '.join(law.name for law in LAWS)}")
        if set(self.params) != set(law.params) or min(self.params.values()) < 0:
            raise ValueError(f"the {self.law} law has the parameters {', '.join(law.params)}, none below 0")
        if any(len(sample) != len(law.params) for sample in self.samples):
            raise ValueError(f"samples must have {len(law.params)} values each")
        if self.forecast is not None:
            Forecast.from_json(self.forecast, STACKED)
        return self

    @property
    def model(self) -> Law:
        return next(law for law in LAWS if law.name == self.law)

    @property
    def theta(self) -> Array:
        """The parameters in the law's order, (p,)."""
        return np.array([self.params[name] for name in self.model.params])

    @property
    def theta_samples(self) -> Array:
        """The bootstrap's parameters that the file holds, (S, p)."""
        rows = [[np.nan if value is None else value for value in sample] for sample in self.samples]
        return np.array(rows, dtype=np.float64).reshape(-1, len(self.params))


def load_fit(path: str | Path) -> FitFile:
    """Read a fit.json. Raises FitError for anything else."""
    try:
        return FitFile.model_validate_json(Path(path).read_bytes())
    except OSError as error:
        raise FitError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise FitError(f"{path}: not a fit written by sixnd fit --json ({where}: {first['msg']})") from error


@guarded()
def predict_rows(fit: FitFile, N: Array, D: Array) -> list[dict[str, float | None]]:
    """The loss of a new run at each of N, D (k,), with its predictive 95 % interval: keys N, D, loss, lo95, hi95.

    From the forecast: the stack's centre, and an interval that holds the curve's uncertainty, a run's noise and the law's drift
    beyond the data. A file without one gives the fitted curve, and the bootstrap interval of the curve alone (null without a
    bootstrap). Raises FitError unless N and D are positive and finite.
    """
    _check(N=N, D=D)
    if fit.forecast is not None:
        columns = Forecast.from_json(fit.forecast, STACKED).interval(N, D)
    else:
        columns = (_curve(fit, fit.theta[None], N, D)[0], *_curve_ends(fit, N, D))
    return [
        {"N": float(n), "D": float(d), "loss": _number(loss), "lo95": _number(low), "hi95": _number(high)}
        for n, d, loss, low, high in zip(N, D, *columns, strict=True)
    ]


@guarded()
def predict_at(fit: FitFile, N: float, D: float) -> dict[str, Any]:
    """A new run of N parameters on D tokens: keys N, D, C, loss, lo95, hi95 (as `predict_rows`), law_loss (the fitted curve), warnings."""
    row = predict_rows(fit, np.array([N], dtype=np.float64), np.array([D], dtype=np.float64))[0]
    C = FLOPS_PER_PARAMETER_AND_TOKEN * N * D
    curve = _number(_curve(fit, fit.theta[None], np.array([N]), np.array([D]))[0, 0])
    ends = {name: row[name] for name in ("loss", "lo95", "hi95")}
    return {"N": N, "D": D, "C": _number(C), **ends, "law_loss": curve, "warnings": warnings(fit, N=N, D=D, C=C)}


@guarded()
def predict_at_flops(fit: FitFile, C: float) -> dict[str, Any]:
    """The compute-optimal run at C FLOPs: keys C, N_opt, D_opt, their _lo95 and _hi95 (of the curve's optimum, over the bootstrap),
    tokens_per_parameter, loss, lo95, hi95 (of a new run at N_opt and D_opt, as `predict_rows`), law_loss, warnings.
    """
    _check(C=np.array([C]))
    points = optimal_points(fit, np.array([C], dtype=np.float64))
    N, D = float(points.N[0]), float(points.D[0])
    bands = {"N_opt_": points.N_ci95, "D_opt_": points.D_ci95}
    ends = {
        f"{name}{end}": None if band is None else _number(band[0, side])
        for name, band in bands.items()
        for side, end in enumerate(("lo95", "hi95"))
    }
    run = predict_at(fit, N, D)
    loss = {name: run[name] for name in ("loss", "lo95", "hi95", "law_loss")}
    optimum = {"C": C, "N_opt": N, "D_opt": D, "tokens_per_parameter": _number(D / N)}
    return {**optimum, **ends, **loss, "warnings": warnings(fit, N=N, D=D, C=C)}


def optimal_points(fit: FitFile, C: Array) -> Points:
    """The compute-optimal points at C (k,) FLOPs, with bands over the file's samples. Raises FitError where the law has none."""
    if isinstance(fit.model, Chinchilla):
        points = optimal(fit.theta, fit.theta_samples, C)
    else:
        points = optimal_of(fit.model.loss, fit.theta, fit.theta_samples, C)
    if fit.frontier.a is None or not (np.isfinite(points.N * points.D) & (points.N > 0) & (points.D > 0)).all():
        raise FitError("this fit has no compute-optimal point: one of its terms is zero or flat")
    return points


def warnings(fit: FitFile, **point: float) -> list[dict[str, str]]:
    """How far beyond the runs a point (N, D, C) lies, and whether the intervals are those of the curve only."""
    found: list[Verdict | None] = []
    for name, value in point.items():
        low, high = fit.ranges.get(name, (None, None))
        if low is not None and high is not None:
            found.append(extrapolation(name, min(max(value, 1e-300), 1e300), low, high))
    if fit.forecast is None:
        what = "the interval is that of the curve only" if fit.samples else "there is no interval"
        found.append(
            Verdict(
                "no_forecast",
                f"the file holds no forecast (bootstrap 0, a law of repeated tokens, or an older sixnd): {what}",
            )
        )
    return [{"code": verdict.code, "message": verdict.message} for verdict in found if verdict is not None]


def _curve(fit: FitFile, params: Array, N: Array, D: Array) -> Array:
    return fit.model.loss(params, N, D)


def _curve_ends(fit: FitFile, N: Array, D: Array) -> tuple[Array, Array]:
    if not fit.samples:
        return np.full(len(N), np.nan), np.full(len(N), np.nan)
    low, high = ci95(_curve(fit, fit.theta_samples, N, D)).T
    return low, high


def _check(**values: Array) -> None:
    for name, column in values.items():
        wrong = np.flatnonzero(~(np.isfinite(column) & (column > 0)))
        if len(wrong):
            row = f" (row {wrong[0] + 1})" if len(column) > 1 else ""
            raise FitError(f"{name} must be a positive number, not {column[wrong[0]]:g}{row}")


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
