"""The report as one HTML file: what is said in it, and its writing in one piece."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
import plotly.offline
from markupsafe import Markup

from ..fit import Fit
from ..table import RunTable
from .drawing import palettes
from .facts import facts
from .figures import Figure, figures
from .numbers import Interval, count, flops, rounded, rounded_interval
from .tables import runs_view

FEWEST_RUNS = 6


@dataclass(frozen=True)
class Estimate:
    symbol: str
    meaning: Markup
    value: str
    interval: str  # "" without a bootstrap


@dataclass(frozen=True)
class Budget:
    """The compute-optimal point at one budget: (value, band) pairs, the band "" without a bootstrap."""

    compute: str
    cells: tuple[tuple[str, str], ...]
    beyond: bool  # more compute than any run had


def write_report(
    path: Path,
    *,
    title: str,
    table: RunTable,
    fit: Fit | None,
    manifest: Mapping[str, object] | None,
    environment: Mapping[str, str],
    runs: pd.DataFrame | None,
) -> Path:
    """Write the report to `path`, replacing what was there in one step, and return `path`.

    The page is one file that works offline: plotly.js is inside, nothing is fetched, and a content security policy forbids that
    anything ever is. Every string from outside is escaped.

    Args:
        table: the runs that the law was fitted to, in the order of `fit.residuals`.
        fit: None where there are too few runs for a law: the page then shows the runs and says why there is none.
        manifest: what the corpus was made of, as its manifest.json says; None where the corpus is unknown.
        environment: versions and machine, a label and a value each.
        runs: every run in any state for the table of runs; None shows those of `table`.

    Raises:
        OSError: the file cannot be written; a report that was there before is untouched.
    """
    html = render(title=title, table=table, fit=fit, manifest=manifest, environment=environment, runs=runs)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_text(html, encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def render(
    *,
    title: str,
    table: RunTable,
    fit: Fit | None,
    manifest: Mapping[str, object] | None,
    environment: Mapping[str, str],
    runs: pd.DataFrame | None,
) -> str:
    """The report as a string of HTML; arguments as for `write_report`."""
    light, dark = palettes()
    return _template().render(
        title=title,
        table=table,
        span=_span(table),
        fit=fit,
        no_law=None if fit else _why_no_law(table),
        terms=None if fit is None else {name: rounded(fit.params[name], fit.ci95.get(name)) for name in fit.params},
        amplitudes=None
        if fit is None
        else {name: rounded_interval(fit.ci95[name]) for name in ("A", "B") if name in fit.ci95},
        estimates=None if fit is None else _estimates(fit),
        growth=None if fit is None else _growth(fit),
        budgets=None if fit is None else _budgets(table, fit),
        rms=None if fit is None else f"{100 * float(np.sqrt(np.mean(fit.residuals**2))):.1f} %",
        figures=[(figure, _json(figure)) for figure in figures(table, fit)],
        runs=runs_view(table.frame if runs is None else runs, table),
        manifest=facts(manifest or {}),
        environment=facts(environment),
        palette={"light": light, "dark": dark},
        plotly_js=Markup(plotly.offline.get_plotlyjs()),
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2")


def _json(figure: Figure) -> Markup:
    """The figure for a <script type="application/json">: with no "<" in it no string can close the element."""
    return Markup(str(figure.plot.to_json()).replace("<", "\\u003c").replace(">", "\\u003e"))


def _span(table: RunTable) -> dict[str, str] | None:
    if len(table.N) == 0:
        return None
    ends = {"N": table.N, "D": table.D}
    return {name: f"{count(values.min())} to {count(values.max())}" for name, values in ends.items()}


def _why_no_law(table: RunTable) -> str:
    n = len(table.N)
    if n < FEWEST_RUNS:
        finished = "1 run has" if n == 1 else f"{n or 'no'} runs have"
        return f"There is no law yet: {finished} finished, and a law of five parameters needs at least {FEWEST_RUNS}."
    return f"No law was fitted to these {n} runs."


def _estimates(fit: Fit) -> list[Estimate]:
    a, b = fit.frontier.a_ci95, fit.frontier.b_ci95
    return [
        _estimate("a", "the best N grows as C<sup>a</sup>", fit.frontier.a, a),
        _estimate("b", "the best D grows as C<sup>b</sup>", fit.frontier.b, b),
        _estimate("E", "nats per token that no N or D removes", fit.params["E"], fit.ci95.get("E")),
        _estimate("α", "what a small N adds falls as N<sup>−α</sup>", fit.params["alpha"], fit.ci95.get("alpha")),
        _estimate("β", "what a small D adds falls as D<sup>−β</sup>", fit.params["beta"], fit.ci95.get("beta")),
    ]


def _estimate(symbol: str, meaning: str, value: float, interval: Interval | None) -> Estimate:
    return Estimate(
        symbol, Markup(meaning), rounded(value, interval), "" if interval is None else rounded_interval(interval)
    )


def _growth(fit: Fit) -> str:
    """The exponents in words: how a tenfold budget is best spent."""

    def times(exponent: float, interval: Interval | None) -> str:
        if interval is None:
            return f"{10**exponent:.1f} times"
        low, high = 10 ** interval[0], 10 ** interval[1]
        return f"{rounded(10**exponent, (low, high))} times ({rounded_interval((low, high))})"

    N, D = times(fit.frontier.a, fit.frontier.a_ci95), times(fit.frontier.b, fit.frontier.b_ci95)
    return f"Ten times the compute is best spent on {N} the parameters and {D} the tokens."


def _budgets(table: RunTable, fit: Fit) -> list[Budget]:
    points, most = fit.frontier.budgets, float((6.0 * table.N * table.D).max())
    bands = (points.N_ci95, points.D_ci95, points.tokens_per_parameter_ci95, points.loss_ci95)
    values = (points.N, points.D, points.tokens_per_parameter, points.loss)
    budgets = []
    for i, C in enumerate(points.C):
        cells = []
        for value, band, is_count in zip(values, bands, (True, True, False, False), strict=True):
            interval = None if band is None else (float(band[i, 0]), float(band[i, 1]))
            if is_count:
                cells.append((count(value[i]), "" if interval is None else " to ".join(map(count, interval))))
            else:
                cells.append(
                    (rounded(float(value[i]), interval), "" if interval is None else rounded_interval(interval))
                )
        budgets.append(Budget(flops(float(C)).replace(".0e", "e"), tuple(cells), bool(most * 1.001 < C)))
    return budgets
