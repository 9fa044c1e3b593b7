"""Ledgers for tests of the report: a small one, and a simulated one with everything that a study can use, with its study, made fast."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from sixnd.analysis.budgets.datawall import data_wall
from sixnd.analysis.budgets.overtrain import overtraining
from sixnd.analysis.fit import Fit, fit
from sixnd.analysis.forecasts.compare import Comparison, LawScore
from sixnd.analysis.methods.envelope import curves_of, envelope
from sixnd.analysis.methods.isoflop import isoflop, parabola_bias
from sixnd.analysis.methods.metrics import measured_of, metric_study
from sixnd.analysis.study import Study
from sixnd.analysis.tables.table import RunTable, table_of
from sixnd.analysis.uncertainty.profile import Profile

# Losses of 20 small runs on public-domain text, D = 0.5, 1, 2, 4 M tokens.
LOSSES = {
    25_184: (4.31, 4.07, 3.85, 3.59),
    55_440: (4.17, 3.83, 3.53, 3.33),
    98_432: (4.14, 3.78, 3.46, 3.24),
    196_736: (4.10, 3.72, 3.38, 3.14),
    442_176: (3.98, 3.55, 3.20, 2.96),
}
TOKENS = (500_000, 1_000_000, 2_000_000, 4_000_000)


def small_ledger() -> pd.DataFrame:
    """Twenty finished runs with the usual columns of a ledger."""
    rows = [
        {"key": f"{i}{j}{'0' * 14}", "state": "done", "N_total": N, "D": D, "C_6nd": 6.0 * N * D, "test_loss": loss, "test_loss_se": 0.011,
         "lr": 0.008 / (i + 1), "seed": 0, "spec": "{}", "torch_version": "2.13.0", "error": None}
        for i, (N, losses) in enumerate(LOSSES.items())
        for j, (D, loss) in enumerate(zip(TOKENS, losses, strict=True))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def as_table(frame: pd.DataFrame, **changes: Any) -> RunTable:
    """The table of such runs."""
    N, D, loss = (frame[name].to_numpy(dtype=float) for name in ("N_total", "D", "test_loss"))
    return replace(RunTable(N, D, loss, frame, "runs.jsonl", "N_total", "D", "test_loss"), **changes)


def ledger(name: str = "run") -> pd.DataFrame:
    """25 runs at five budgets with training curves, accuracy and exact match."""
    rng = np.random.default_rng(0)
    rows = []
    for C in np.geomspace(1e16, 1e18, 5):
        for times in (0.25, 0.5, 1.0, 2.0, 4.0):
            N = round(3e7 * (C / 1e17) ** 0.5 * times)
            D = round(C / 6 / N)
            tokens = np.geomspace(D / 100, D, 30)
            curve = 1.8 + 400 / N**0.34 + 1500 / tokens**0.37
            loss = float(curve[-1] * np.exp(0.003 * rng.standard_normal()))
            p = float(np.exp(0.35 - 0.45 * loss))
            rows.append(
                {"key": f"{name}{len(rows):02d}", "state": "done", "N_total": N, "D": D, "test_loss": loss, "accuracy": p,
                 "exact_match": json.dumps({str(k): p ** (0.8 * k) for k in (2, 4, 8)}), "error": None,
                 "curve": json.dumps([[t, L, 0.01] for t, L in zip(tokens, [*curve[:-1], loss], strict=True)])}
            )  # fmt: skip
    return pd.DataFrame(rows)


def study_of(table: RunTable, fitted: Fit) -> Study:
    """A study of the simulated ledger. Its profiles and its comparison, which take long, are made up."""
    N, D = table.N, table.D
    parabolas = isoflop(N, D, table.loss, bootstrap=100)
    theta = fitted.theta
    grid = np.linspace(-1, 1, 21)
    alpha = Profile("alpha", 0.34, 0.34 + 0.05 * grid, 1 + grid**2, 1.25, (0.315, 0.365), (0.34,))
    amplitude = Profile("A", 400.0, 400 * 10.0**grid, 1 + grid**2, 1.25, (None, 1265.0), (400.0, 2000.0))
    size = Profile("N*", 1e8, 1e8 * 10.0**grid, 1 + grid**2, 1.25, (None, None), (1e8,))
    scores = (
        LawScore("chinchilla", 0.05, 0.95, 0.004, 0.003, 0.0, None),
        LawScore("stack", 0.06, 0.9, 0.005, None, 0.01, 0.002),
    )
    return Study(
        table=table,
        fit=fitted,
        forecast=fitted.forecast,
        comparison=Comparison(scores, (1e17, 3e17), 0.95),
        profiles=(alpha, amplitude, size),
        isoflop=parabolas,
        isoflop_bias=parabola_bias(parabolas, N, D, fitted.predict),
        envelope=envelope(curves_of(table.frame, table.n_col), bootstrap=20),
        metrics=metric_study(
            N, D, table.loss, measured_of(table.frame), fitted.predict, lambda C: fitted.optimal(C).loss
        ),
        overtraining=overtraining(theta, fitted.samples, fitted.ranges["C"][1]),
        data_wall=data_wall(theta, fitted.samples),
        warnings=fitted.warnings,
        skipped={},
    )


def simulated_study(bootstrap: int = 100) -> Study:
    table = table_of(ledger(), "runs.jsonl")
    return study_of(table, fit(table, bootstrap=bootstrap))
