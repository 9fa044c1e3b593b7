"""Every verdict on a fit, in the order of how much it matters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .. import verdicts
from ..laws import Array
from ..solver.constrained import objective
from ..solver.optimize import global_minimum
from ..tables.table import RunTable
from ..uncertainty.intervals import refit
from .verdict import Verdict

if TYPE_CHECKING:
    from ..fit import Fit

SEVERITY = (
    "units", "few_runs", "alpha_beta_not_separable", "exponent_unidentified", "multimodal", "influential_run", "outlier",
    "optimum_outside_grid", "mixed_runs", "untuned", "E_unidentified", "n_convention", "no_intervals", "rows_set_aside",
)  # fmt: skip
EXPONENTS = ("A", "B", "E", "alpha", "beta")  # laws whose parameters begin so have a = beta/(alpha + beta)


def check(table: RunTable, fit: Fit) -> tuple[Verdict, ...]:
    """What a careful reader should know, most serious first."""
    N, D, bootstrap = table.N, table.D, len(fit.samples)
    found = [
        verdicts.units(table.unit_doubts),
        verdicts.few_runs(N, D),
        verdicts.not_separable(N, D),
        verdicts.mixed_runs(table.frame),
        verdicts.untuned(table.frame, N, D),
        verdicts.no_intervals(bootstrap),
        verdicts.rows_set_aside(table.set_aside),
    ]
    if fit.model.params[:5] == EXPONENTS:
        found += _of_exponents(table, fit)
    else:
        found.append(verdicts.outlier(N, D, fit.residuals, name=table.run_name))
    if fit.model.params[2:3] == ("E",):
        found.append(verdicts.E_unidentified(fit.params["E"], fit.samples))
    if np.isfinite(fit.frontier.a):
        found.append(verdicts.optimum_outside_grid(N, D, lambda C: fit.model.optimal(fit.theta[None], C).N[0]))
    kept = [verdict for verdict in found if verdict is not None]
    return tuple(sorted(kept, key=lambda verdict: SEVERITY.index(verdict.code)))


def _of_exponents(table: RunTable, fit: Fit) -> list[Verdict | None]:
    """Of laws in which alpha, beta and a are what they are in Chinchilla's."""
    N, D, a, law, rows = table.N, table.D, fit.frontier.a, fit.model, fit.rows
    name, leading = table.run_name, fit.optimum.leading

    def again(weights: Array) -> Array:
        return law.natural(refit(law, rows, fit.optimum, weights, fit.loss), rows)

    def of_convention(other: Array) -> float:
        if np.array_equal(other, N):
            return a
        moved = fit.rows_of(other)
        return float(_a(law.natural(global_minimum(law, moved, fit.loss).theta[None], moved))[0])

    lows = objective(law, rows, leading, fit.loss)
    return [
        verdicts.exponent_unidentified(N, D, fit.theta, fit.frontier.a_ci95, fit.samples, again, law.max_exponent),
        verdicts.multimodal(_a(law.natural(leading, rows)), lows, len(N), _a(fit.samples)),
        verdicts.outlier(N, D, fit.residuals, a, again, name),
        verdicts.influential_run(N, D, a, again, name, table.cluster) if len(fit.samples) else None,
        verdicts.n_convention(table.conventions(), of_convention),
    ]


def _a(params: Array) -> Array:
    alpha, beta = params[:, 3], params[:, 4]
    return np.asarray(beta / np.maximum(alpha + beta, 1e-12))
