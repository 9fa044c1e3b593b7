"""The report as one HTML file: what is said in it, and its writing in one piece."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import jinja2
import pandas as pd
import plotly.offline
from markupsafe import Markup

from ..fit import Fit
from ..table import RunTable
from .drawing import palettes
from .facts import facts
from .figures import Figure, figures
from .law import describe, why_none
from .numbers import count
from .tables import runs_view


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
        law=None if fit is None else describe(table, fit),
        no_law=why_none(table),
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
    return {name: " to ".join(dict.fromkeys(map(count, (values.min(), values.max())))) for name, values in ends.items()}
