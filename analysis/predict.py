"""The fit as a file, and predictions from it: nothing of the run table is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .frontier import FLOPS_PER_PARAMETER_AND_TOKEN, optimal
from .intervals import ci95
from .laws import Array, Chinchilla, FitError
from .verdicts import Verdict, extrapolation

SAMPLES_KEPT = 200

Interval = tuple[float | None, float | None]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)  # a newer sixnd may add keys


class Params(_Part):
    A: float = Field(ge=0)
    B: float = Field(ge=0)
    E: float = Field(ge=0)
    alpha: float = Field(ge=0)
    beta: float = Field(ge=0)


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


class FitFile(_Part):
    """fit.json. `samples` holds at most 200 of the bootstrap's rows A, B, E, alpha, beta; `ranges` the span of N, D, C fitted."""

    law: Literal["chinchilla"]
    n_runs: int
    objective: float
    params: Params
    se: dict[str, float | None] | None
    ci95: dict[str, Interval] | None
    frontier: FrontierPart
    warnings: tuple[Warned, ...]
    delta: float = 1e-3
    bootstrap: int = 0
    seed: int = 0
    rms_log_residual: float | None = None
    starts_agreeing: int | None = None
    gradient_norm: float | None = None
    columns: dict[str, str] = Field(default_factory=dict)
    ranges: dict[str, Interval] = Field(default_factory=dict)
    samples: tuple[tuple[float, float, float, float, float], ...] = ()

    def _arrays(self) -> tuple[Array, Array]:
        params = np.array([[self.params.A, self.params.B, self.params.E, self.params.alpha, self.params.beta]])
        return params, np.array(self.samples, dtype=np.float64).reshape(-1, 5)


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


def predict_at(fit: FitFile, N: float, D: float) -> dict[str, Any]:
    """The loss at N parameters and D tokens: keys N, D, C, loss, lo95, hi95, warnings.

    lo95 and hi95 (null without a bootstrap) come from at most 200 resamples and are the uncertainty of the fitted curve only: the noise of a single run and
    the law's own misfit, which grows beyond the data, are not in them. Raises FitError unless N and D are positive and finite.
    """
    _check(N=N, D=D)
    C = FLOPS_PER_PARAMETER_AND_TOKEN * N * D
    return {"N": N, "D": D, "C": _number(C), **_loss(fit, N, D), "warnings": _warnings(fit, N=N, D=D, C=C)}


def predict_at_flops(fit: FitFile, C: float) -> dict[str, Any]:
    """The compute-optimal point at C FLOPs: keys C, N_opt, D_opt, their _lo95 and _hi95, tokens_per_parameter, loss, lo95, hi95, warnings.

    The band of the loss is that of the optimum of each resample; the same caution as for `predict_at` holds.
    """
    _check(C=C)
    params, samples = fit._arrays()
    points = optimal(params[0], samples, np.array([C]))
    N, D = float(points.N[0]), float(points.D[0])
    if not (np.isfinite(N) and np.isfinite(D) and N > 0 and D > 0):
        raise FitError("this fit has no compute-optimal point: one of its two terms is zero or flat")
    bands = {"N_opt_": points.N_ci95, "D_opt_": points.D_ci95, "": points.loss_ci95}
    ends = {
        f"{name}{end}": None if band is None else _number(float(band[0, side]))
        for name, band in bands.items()
        for side, end in enumerate(("lo95", "hi95"))
    }
    point = {"C": C, "N_opt": N, "D_opt": D, "tokens_per_parameter": _number(D / N), "loss": float(points.loss[0])}
    return {**point, **ends, "warnings": _warnings(fit, N=N, D=D, C=C)}


def _loss(fit: FitFile, N: float, D: float) -> dict[str, Any]:
    params, samples = fit._arrays()
    law, at = Chinchilla(), (np.array([N]), np.array([D]))
    loss = float(law.loss(params, *at)[0, 0])
    if not len(samples):
        return {"loss": loss, "lo95": None, "hi95": None}
    low, high = ci95(law.loss(samples, *at)[:, 0])
    return {"loss": loss, "lo95": _number(float(low)), "hi95": _number(float(high))}


def _warnings(fit: FitFile, **point: float) -> list[dict[str, str]]:
    found: list[Verdict | None] = []
    for name, value in point.items():
        low, high = fit.ranges.get(name, (None, None))
        if low is not None and high is not None:
            found.append(extrapolation(name, value, low, high))
    return [{"code": verdict.code, "message": verdict.message} for verdict in found if verdict is not None]


def _check(**values: float) -> None:
    for name, value in values.items():
        if not (np.isfinite(value) and value > 0):
            raise FitError(f"{name} must be a positive number, not {value}")


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None
