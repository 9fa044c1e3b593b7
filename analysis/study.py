"""Everything that a table allows to be said about a fitted law, in one object: what a report draws from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from .budgets.datawall import DataWall, data_wall
from .budgets.overtrain import OverTraining, overtraining
from .catalogue import COMPARED, guarded
from .design.information import bootstrap_noise, noise_of
from .design.next_runs import Design, next_runs
from .design.selection import COOLDOWN
from .fit import Fit
from .forecasts.compare import Comparison, compare
from .forecasts.forecast import Forecast
from .laws import Array, Chinchilla, FitError
from .methods.envelope import Curves, Envelope, curves_of, envelope
from .methods.isoflop import Bias, IsoFlop, isoflop, parabola_bias
from .methods.metrics import MetricStudy, measured_of, metric_study
from .solver.losses import Huber
from .tables.read import TableError
from .tables.table import RunTable
from .uncertainty.profile import Profile
from .verdicts.verdict import Verdict

PROFILED = ("a", "alpha", "beta", "E")  # the others take as long again: `sixnd profile`
MOST_COMPARED = 2000  # runs; a longer table takes minutes

T = TypeVar("T")


@dataclass(frozen=True)
class Study:
    """A table, its fit, and every analysis of them; None where one does not apply, with the reason under its name in `skipped`."""

    table: RunTable
    fit: Fit
    forecast: Forecast | None
    comparison: Comparison | None  # laws by forward-chained score
    profiles: tuple[Profile, ...]  # of a, alpha, beta and E, as far as the law has them
    isoflop: IsoFlop | None
    isoflop_bias: Bias | None  # of those parabolas, if the fitted law were the truth
    envelope: Envelope | None
    metrics: MetricStudy | None
    overtraining: OverTraining | None  # at the largest compute of the runs
    data_wall: DataWall | None
    warnings: tuple[Verdict, ...]  # the fit's, most serious first
    skipped: dict[str, str]


@guarded()
def study(table: RunTable, fit: Fit) -> Study:
    """Every analysis that the table allows: some seconds for a few hundred runs."""
    skipped: dict[str, str] = {}
    N, D, count, seed = table.N, table.D, len(fit.samples), fit.seed

    def tried(name: str, analysis: Callable[[], T]) -> T | None:
        try:
            return analysis()
        except (FitError, TableError) as error:
            skipped[name] = str(error)
            return None

    parabolas = tried("isoflop", lambda: isoflop(N, D, table.loss, bootstrap=count, seed=seed))
    bias = None
    if parabolas is not None:
        bias = tried("isoflop_bias", lambda: parabola_bias(parabolas, N, D, fit.predict))
    profiles = [tried(f"profile of {name}", partial(fit.profile, name)) for name in PROFILED]
    return Study(
        table=table,
        fit=fit,
        forecast=tried("forecast", lambda: fit.forecast),
        comparison=tried("comparison", lambda: comparison(fit)),
        profiles=tuple(profile for profile in profiles if profile is not None),
        isoflop=parabolas,
        isoflop_bias=bias,
        envelope=tried("envelope", lambda: envelope(_curves(table), bootstrap=count, seed=seed)),
        metrics=tried("metrics", lambda: _metrics(table, fit)),
        overtraining=tried("overtraining", lambda: overtraining(_chinchilla(fit), fit.samples, fit.ranges["C"][1])),
        data_wall=tried("data_wall", lambda: data_wall(_chinchilla(fit), fit.samples)),
        warnings=fit.warnings,
        skipped=skipped,
    )


@guarded()
def comparison(fit: Fit) -> Comparison:
    """The laws that depend on N and D by forward-chained score, on the rows of the fit. Raises FitError."""
    if fit.n_runs > MOST_COMPARED:
        raise FitError(f"laws are compared on at most {MOST_COMPARED} runs; the table has {fit.n_runs}")
    return compare(fit.rows, COMPARED, se=fit.errors, seed=fit.seed)


def stack_weights(fit: Fit) -> dict[str, float]:
    """What share each law has in the forecast, over all spans of the runs. Raises FitError."""
    shares: dict[str, float] = {}
    for member in fit.forecast.members:
        shares[member.law.name] = shares.get(member.law.name, 0.0) + member.weight
    return dict(sorted(shares.items(), key=lambda share: -share[1]))


@guarded()
def next_design(
    fit: Fit,
    flops: float,
    *,
    target: str = "a",
    C_target: float | None = None,
    cooldown: float = COOLDOWN,
    most_tokens: float = np.inf,
) -> Design:
    """The runs to train next within `flops`: see `design.next_runs`. The noise is that between seeds where the table has them, else the
    residuals', raised to what the bootstrap saw. Raises FitError.
    """
    params, delta = _chinchilla(fit), fit.loss.delta if isinstance(fit.loss, Huber) else None
    N, D = np.exp(fit.rows.x + fit.rows.x_mean), np.exp(fit.rows.z + fit.rows.z_mean)
    noise, samples = fit.seed_sd or noise_of(fit.residuals), None
    if len(fit.samples):
        samples, noise = fit.samples, bootstrap_noise(noise, N, D, params, fit.samples, delta)
    return next_runs(
        params, N, D, flops, noise=noise, delta=delta, samples=samples,
        target=target, C_target=C_target, cooldown=cooldown, most_tokens=most_tokens,
    )  # fmt: skip


def _curves(table: RunTable) -> Curves:
    return curves_of(table.frame, table.n_col, source=table.source)


def _metrics(table: RunTable, fit: Fit) -> MetricStudy:
    measured = measured_of(table.frame, table.source)
    return metric_study(table.N, table.D, table.loss, measured, fit.predict, lambda C: fit.optimal(C).loss)


def _chinchilla(fit: Fit) -> Array:
    """The parameters, where they are those of Chinchilla's law."""
    if not isinstance(fit.model, Chinchilla):
        raise FitError("worked out for L = A/N^alpha + B/D^beta + E only")
    return fit.theta
