"""Fit a law to a run table: the certified optimum, bootstrap intervals, the frontier, forecasts, and what to beware of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from .budgets.frontier import Frontier, Points, default_budgets, frontier, frontier_of
from .catalogue import STACKED, guarded, law_of, loss_of, name_of
from .forecasts.forecast import Forecast, forecast
from .laws import Array, Chinchilla, DataConstrained, Law, Rows
from .laws import FitError as FitError
from .plain import plain, plain_fields
from .predict import SAMPLES_KEPT, FitFile
from .solver.losses import Loss
from .solver.optimize import Optimum, global_minimum
from .summary import html, text
from .tables.table import RunTable, read_table, table_of
from .uncertainty.intervals import ci95
from .uncertainty.profile import Profile, profile
from .uncertainty.quantities import quantities
from .uncertainty.weights import resample, run_errors, weighted
from .verdicts import Verdict, checks

FEWEST_RUNS = 6
UNIQUE = ("U", "unique_tokens", "D_unique")  # columns of unique tokens, for the data-constrained law
WORDS = {3: "three", 4: "four", 5: "five", 7: "seven"}


@dataclass(frozen=True, repr=False, eq=False)
class Fit:
    """A fitted law. `objective` is the SUM over runs of weight * loss(log L - log L-hat); residuals (n,) are log L - log L-hat."""

    law: str
    n_runs: int
    delta: float
    objective: float
    params: dict[str, float]  # by the law's names, in its order
    se: dict[str, float]  # empty when bootstrap=0
    ci95: dict[str, tuple[float, float]]  # empty when bootstrap=0
    frontier: Frontier  # nan for a law without a compute-optimal point
    residuals: Array  # (n,) in the order of the table
    samples: Array  # (bootstrap, p) in the order of `params`; shape (0, p) when bootstrap=0
    warnings: tuple[Verdict, ...]  # most serious first
    seed: int
    columns: dict[str, str]  # N, D, loss -> the columns of the table that were used
    ranges: dict[str, tuple[float, float]]  # N, D, C -> smallest and largest of the runs
    source: str  # what the table is called
    notes: tuple[str, ...]  # how the table was read, runs weighted and resampled
    resampling: str
    model: Law
    loss: Loss
    rows: Rows
    optimum: Optimum
    errors: Array | None  # (n,) standard errors of log L of single runs, where they are known
    seed_sd: float | None  # of log L between seeds
    clusters: int | None  # how many independent groups the rows form; None: each row is one

    @property
    def theta(self) -> Array:
        """The parameters as an array (p,)."""
        return np.array(list(self.params.values()))

    @property
    def bootstrap(self) -> pd.DataFrame:
        """The bootstrap's parameters, a row for each resample."""
        return pd.DataFrame(self.samples, columns=list(self.params))

    @cached_property
    def forecast(self) -> Forecast:
        """The predictive distribution of new runs: several laws stacked, whichever was fitted (see `forecast`). Raises FitError."""
        if isinstance(self.model, DataConstrained):
            raise FitError("runs on repeated tokens are not forecast: the laws that forecasts stack know N and D only")
        with guarded():
            return forecast(self.rows, STACKED, se=self.errors, seed=self.seed)

    def predict(self, N: npt.ArrayLike, D: npt.ArrayLike) -> Array:
        """The fitted curve L(N, D) in nats per token; broadcasts N against D."""
        sizes, lengths = np.broadcast_arrays(np.asarray(N, dtype=np.float64), np.asarray(D, dtype=np.float64))
        flat: Array = self.model.loss(self.theta[None], sizes.ravel(), lengths.ravel())[0]
        return flat.reshape(sizes.shape)

    @guarded()
    def interval(self, N: npt.ArrayLike, D: npt.ArrayLike, level: float = 0.95) -> tuple[Array, Array, Array]:
        """The loss of a new run and the ends of its predictive interval, from the stack of `forecast`. Raises FitError."""
        return self.forecast.interval(N, D, level)

    @guarded()
    def optimal(self, C: npt.ArrayLike) -> Points:
        """The compute-optimal points at budgets C (k,) in FLOPs, with bootstrap bands: what a figure of the frontier draws."""
        budgets = np.atleast_1d(np.asarray(C, dtype=np.float64))
        return _frontier(self.model, self.theta, self.samples, budgets).budgets

    @guarded()
    def profile(self, name: str, C: float | None = None) -> Profile:
        """The profile likelihood of a parameter, or of a, G, N*, D* or L* at C FLOPs (ten times the largest run's). Raises FitError."""
        budget = 10 * self.ranges["C"][1] if C is None else C
        if not 0 < budget < np.inf:
            raise FitError(f"profile: C must be positive and finite, in FLOPs, not {budget:g}")
        known = {quantity.name: quantity for quantity in quantities(self.model, budget)}
        quantity = known.get(name) or known.get(f"{name}*")
        if quantity is None:
            raise FitError(f"the {self.law} law has no {name!r} to profile; it has {', '.join(known)}")
        return profile(self.model, self.rows, self.optimum, quantity, self.loss)

    def rows_of(self, N: Array) -> Rows:
        """The rows that were fitted, with N (n,) counted by another convention."""
        x = np.log(N)
        return replace(self.rows, x=x - x.mean(), x_mean=float(x.mean()))

    def summary(self) -> str:
        """The law, its intervals, the certificate of the optimum, notes and warnings as text."""
        return text(self)

    def __repr__(self) -> str:
        return f"Fit({self.law}: {self.n_runs} runs of {self.source}, a = {self.frontier.a:.3f})"

    def _repr_html_(self) -> str:
        return html(self)

    @guarded()
    def to_json(self) -> dict[str, object]:
        """What `predict.load_fit` reads back: plain lists and numbers, null for what does not exist, never NaN or Infinity."""
        spread = np.linspace(0, len(self.samples) - 1, min(SAMPLES_KEPT, len(self.samples))).round().astype(int)
        file = {
            "law": self.law,
            "n_runs": self.n_runs,
            "objective": self.objective,
            "params": self.params,
            "se": self.se or None,
            "ci95": self.ci95 or None,
            "frontier": self.frontier.to_json(),
            "warnings": [{"code": warning.code, "message": warning.message} for warning in self.warnings],
            "delta": self.delta,
            "bootstrap": len(self.samples),
            "seed": self.seed,
            "rms_log_residual": float(np.sqrt(np.mean(self.residuals**2))),
            "certificate": {
                "starts": self.optimum.starts,
                "agreeing": self.optimum.starts_agreeing,
                "gradient_norm": self.optimum.gradient_norm,
                "condition": self.optimum.condition,
            },
            "columns": self.columns,
            "ranges": self.ranges,
            "samples": self.samples[spread],
            "loss": {"name": name_of(self.loss)} | plain_fields(self.loss),
            "resampling": self.resampling,
            "notes": self.notes,
            "seed_sd": self.seed_sd,
            "clusters": self.clusters,
            "forecast": self._forecast_json(),
        }
        return FitFile.model_validate(plain(file)).model_dump(mode="json")

    def _forecast_json(self) -> dict[str, object] | None:
        """None where intervals were not asked for, or where the runs allow none."""
        if not len(self.samples):
            return None
        try:
            return self.forecast.to_json()
        except FitError:
            return None


@guarded()
def fit(
    table: RunTable | pd.DataFrame | str | Path,
    law: str | Law = "chinchilla",
    *,
    loss: str | Loss = "huber",
    delta: float = 1e-3,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Fit:
    """The law's parameters by the smallest sum of loss(log L - log L-hat), with `bootstrap` resamples (0: none).

    Args:
        table: runs as `read_table` or `table_of` gives them, a data frame, or the path of a table.
        law: chinchilla (A/N^alpha + B/D^beta + E), tied, coupled, kaplan, loglinear, envelope or data_constrained, or a Law.
        loss: huber, l1, l2 or asymmetric (a run above the curve costs a third of one below), or a Loss.
        delta: where Huber's loss of log L turns from square to linear.

    Raises:
        FitError: too few runs, fewer than 2 different N or D, one and the same loss everywhere, or bad settings.
        TableError: a frame or a file that is no run table.
    """
    if not isinstance(table, RunTable):
        table = table_of(table) if isinstance(table, pd.DataFrame) else read_table(table)
    model, criterion = law_of(law), loss_of(loss, delta)
    _check(table, model, bootstrap)
    N, D = table.N, table.D
    errors, found = run_errors(table)
    rows, weighting = weighted(model, _rows(table, model), criterion, errors)
    best = global_minimum(model, rows, criterion)
    params = model.natural(best.theta[None], rows)[0]
    if not np.isfinite(params).all():
        beyond = model.params[int(np.flatnonzero(~np.isfinite(params))[0])]
        raise FitError(f"{table.source}: the {model.name} law does not fit these runs: {beyond} ends beyond any number")
    thetas, resampling = resample(model, rows, best, criterion, table, bootstrap, seed)
    samples = model.natural(thetas, rows)
    spans = {"N": N, "D": D, "C": 6.0 * N * D}
    bounds = ci95(samples) if bootstrap else np.empty((0, 2))
    se = samples.std(axis=0, ddof=1) if bootstrap else np.empty(0)
    fitted = Fit(
        law=model.name,
        n_runs=len(N),
        delta=delta,
        objective=best.objective,
        params=dict(zip(model.params, params.tolist(), strict=True)),
        se=dict(zip(model.params, se.tolist(), strict=False)),
        ci95={name: (float(low), float(high)) for name, (low, high) in zip(model.params, bounds, strict=False)},
        frontier=_frontier(model, params, samples, default_budgets(N, D)),
        residuals=rows.y - model.shares(best.theta[None], rows).f[0],
        samples=samples,
        warnings=(),
        seed=seed,
        columns={"N": table.n_col, "D": table.d_col, "loss": table.loss_col},
        ranges={name: (float(values.min()), float(values.max())) for name, values in spans.items()},
        source=table.source,
        notes=(*table.notes, *found, *weighting, *((f"intervals: {resampling}",) if bootstrap else ())),
        resampling=resampling,
        model=model,
        loss=criterion,
        rows=rows,
        optimum=best,
        errors=errors,
        seed_sd=table.seed_sd,
        clusters=None if table.cluster is None else len(np.unique(table.cluster)),
    )
    return replace(fitted, warnings=checks.check(table, fitted))


def _frontier(law: Law, params: Array, samples: Array, budgets: Array) -> Frontier:
    if isinstance(law, Chinchilla):
        return frontier(params, samples, budgets)
    return frontier_of(law.loss, params, samples, budgets)


def _rows(table: RunTable, law: Law) -> Rows:
    if not isinstance(law, DataConstrained):
        return Rows.of(table.N, table.D, table.loss)
    column = next((name for name in UNIQUE if name in table.frame.columns), None)
    if column is None:
        raise FitError(f"{table.source}: the {law.name} law needs a column of unique tokens, {' or '.join(UNIQUE)}")
    unique = pd.to_numeric(table.frame[column], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    if not (np.isfinite(unique) & (unique > 0)).all():
        raise FitError(f"{table.source}: column {column}: unique tokens must be positive numbers")
    return Rows.of(table.N, table.D, table.loss, unique=unique)


def _check(table: RunTable, law: Law, bootstrap: int) -> None:
    n, sizes, lengths = len(table.N), len(np.unique(table.N)), len(np.unique(table.D))
    p = len(law.params)
    fewest = max(FEWEST_RUNS, p + 1)
    if n < fewest:
        raise FitError(
            f"{table.source}: {n} runs cannot fix {WORDS.get(p, p)} parameters; at least {fewest} are needed"
        )
    if min(sizes, lengths) < 2:
        what = f"{table.n_col} takes" if sizes < 2 else f"{table.d_col} takes"
        raise FitError(
            f"{table.source}: {what} one value only in all {n} runs; the law needs at least 2 different N and D"
        )
    if np.ptp(np.log(table.loss)) < 1e-9:
        raise FitError(f"{table.source}: {table.loss_col} is the same in all {n} runs; there is no law to fit")
    if bootstrap < 0 or bootstrap == 1:
        raise FitError(f"bootstrap must be 0 (no intervals) or at least 2 resamples, not {bootstrap}")
