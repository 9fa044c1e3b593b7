"""Fit the law to a run table: the certified optimum, bootstrap intervals, the frontier, and what to beware of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from . import verdicts
from .frontier import Frontier, Points, default_budgets, frontier, optimal
from .intervals import bootstrap as resample
from .intervals import ci95, refit
from .laws import Array, Chinchilla, Rows
from .laws import FitError as FitError
from .optimize import global_minimum
from .predict import SAMPLES_KEPT, FitFile
from .table import RunTable
from .verdicts import Verdict

FEWEST_RUNS = 6
LAW = Chinchilla()


@dataclass(frozen=True)
class Fit:
    """A fitted law. `objective` is the SUM of Huber terms of log L - log L-hat at `delta`; residuals (n,) are log L - log L-hat."""

    law: str
    n_runs: int
    delta: float
    objective: float
    params: dict[str, float]  # A, B, E, alpha, beta
    se: dict[str, float]  # empty when bootstrap=0
    ci95: dict[str, tuple[float, float]]  # empty when bootstrap=0
    frontier: Frontier
    residuals: Array  # (n,) in the order of the table
    samples: Array  # (bootstrap, 5): A, B, E, alpha, beta; shape (0, 5) when bootstrap=0
    warnings: tuple[Verdict, ...]
    seed: int
    starts_agreeing: int  # of the starts of the global search, how many ended in the reported optimum
    gradient_norm: float  # the largest component of the projected gradient over the sum of |psi|: 0 at an exact optimum
    columns: dict[str, str]  # N, D, loss -> the columns of the table that were used
    ranges: dict[str, tuple[float, float]]  # N, D, C -> smallest and largest of the runs

    def predict(self, N: npt.ArrayLike, D: npt.ArrayLike) -> Array:
        """L(N, D) in nats per token; broadcasts N against D."""
        sizes, lengths = np.broadcast_arrays(np.asarray(N, dtype=np.float64), np.asarray(D, dtype=np.float64))
        flat: Array = LAW.loss(self._theta()[None], sizes.ravel(), lengths.ravel())[0]
        return flat.reshape(sizes.shape)

    def optimal(self, C: npt.ArrayLike) -> Points:
        """The compute-optimal points at budgets C (k,) in FLOPs, with bootstrap bands: what a figure of the frontier draws."""
        return optimal(self._theta(), self.samples, np.atleast_1d(np.asarray(C, dtype=np.float64)))

    def to_json(self) -> dict[str, object]:
        """What `predict.load_fit` reads back: plain lists and numbers, null for what does not exist, never NaN or Infinity."""
        spread = np.linspace(0, len(self.samples) - 1, min(SAMPLES_KEPT, len(self.samples))).round().astype(int)
        budgets = self.frontier.budgets
        file = {
            "law": self.law,
            "n_runs": self.n_runs,
            "objective": self.objective,
            "params": self.params,
            "se": self.se or None,
            "ci95": self.ci95 or None,
            "frontier": {
                "a": self.frontier.a,
                "b": self.frontier.b,
                "a_ci95": self.frontier.a_ci95,
                "b_ci95": self.frontier.b_ci95,
                "budgets": [_budget(budgets, k) for k in range(len(budgets.C))],
            },
            "warnings": [{"code": warning.code, "message": warning.message} for warning in self.warnings],
            "delta": self.delta,
            "bootstrap": len(self.samples),
            "seed": self.seed,
            "rms_log_residual": float(np.sqrt(np.mean(self.residuals**2))),
            "starts_agreeing": self.starts_agreeing,
            "gradient_norm": self.gradient_norm,
            "columns": self.columns,
            "ranges": self.ranges,
            "samples": self.samples[spread].tolist(),
        }
        return FitFile.model_validate(_finite(file)).model_dump(mode="json")

    def _theta(self) -> Array:
        return np.array([self.params[name] for name in LAW.params])


def fit(table: RunTable, *, delta: float = 1e-3, bootstrap: int = 1000, seed: int = 0) -> Fit:
    """L(N, D) = A/N^alpha + B/D^beta + E by the smallest sum of Huber_delta(log L - log L-hat), with `bootstrap` resamples (0: none).

    Raises FitError for fewer than 6 runs, fewer than 2 different N or D, one and the same loss everywhere, or bad settings.
    """
    _check(table, delta, bootstrap)
    N, D = table.N, table.D
    rows = Rows.of(N, D, table.loss)
    best = global_minimum(LAW, rows, delta)
    params = LAW.natural(best.theta[None], rows)[0]
    thetas = resample(LAW, rows, best, delta=delta, count=bootstrap, rng=np.random.default_rng(seed))
    samples = LAW.natural(thetas, rows)
    residuals = rows.y - LAW.shares(best.theta[None], rows).f[0]
    edge = frontier(params, samples, default_budgets(N, D))

    def again(weights: Array) -> Array:
        return LAW.natural(refit(LAW, rows, best, weights, delta), rows)

    found = (
        verdicts.few_runs(N, D),
        verdicts.not_separable(N, D),
        verdicts.exponent_unidentified(N, D, params, edge.a_ci95, samples, again, LAW.max_exponent),
        verdicts.E_unidentified(float(params[2]), samples),
        verdicts.outlier(N, D, residuals),
        verdicts.influential_run(N, D, edge.a, again) if bootstrap else None,
        verdicts.no_intervals(bootstrap),
        verdicts.rows_set_aside(table.set_aside),
    )
    with np.errstate(over="ignore"):
        spans = {"N": N, "D": D, "C": 6.0 * N * D}
    bounds = ci95(samples) if bootstrap else np.empty((0, 2))
    errors = samples.std(axis=0, ddof=1) if bootstrap else np.empty(0)
    return Fit(
        law=LAW.name,
        n_runs=len(N),
        delta=delta,
        objective=best.objective,
        params=dict(zip(LAW.params, params.tolist(), strict=True)),
        se=dict(zip(LAW.params, errors.tolist(), strict=False)),
        ci95={name: (float(low), float(high)) for name, (low, high) in zip(LAW.params, bounds, strict=False)},
        frontier=edge,
        residuals=residuals,
        samples=samples,
        warnings=tuple(verdict for verdict in found if verdict is not None),
        seed=seed,
        starts_agreeing=best.starts_agreeing,
        gradient_norm=best.gradient_norm,
        columns={"N": table.n_col, "D": table.d_col, "loss": table.loss_col},
        ranges={name: (float(values.min()), float(values.max())) for name, values in spans.items()},
    )


def _check(table: RunTable, delta: float, bootstrap: int) -> None:
    n, sizes, lengths = len(table.N), len(np.unique(table.N)), len(np.unique(table.D))
    if n < FEWEST_RUNS:
        raise FitError(f"{table.source}: {n} runs cannot fix five parameters; at least {FEWEST_RUNS} are needed")
    if min(sizes, lengths) < 2:
        what = f"{table.n_col} takes" if sizes < 2 else f"{table.d_col} takes"
        raise FitError(
            f"{table.source}: {what} one value only in all {n} runs; the law needs at least 2 different N and D"
        )
    if np.ptp(np.log(table.loss)) < 1e-9:
        raise FitError(f"{table.source}: {table.loss_col} is the same in all {n} runs; there is no law to fit")
    if not 1e-9 <= delta <= 1e3:
        raise FitError(f"delta must lie between 1e-9 and 1e3, not {delta:g}")
    if bootstrap < 0 or bootstrap == 1:
        raise FitError(f"bootstrap must be 0 (no intervals) or at least 2 resamples, not {bootstrap}")


def _budget(points: Points, k: int) -> dict[str, object]:
    names = ("C", "N", "D", "loss", "tokens_per_parameter")
    bands = (points.N_ci95, points.D_ci95, points.loss_ci95, points.tokens_per_parameter_ci95)
    row: dict[str, object] = {name: float(getattr(points, name)[k]) for name in names}
    return row | {
        f"{name}_ci95": None if band is None else band[k].tolist() for name, band in zip(names[1:], bands, strict=True)
    }


def _finite(value: object) -> object:
    """JSON has no NaN and no Infinity: null instead, and null for an interval without both ends."""
    match value:
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case float():
            return value if np.isfinite(value) else None
    return value
