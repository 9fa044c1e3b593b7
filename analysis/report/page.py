"""The report as one HTML file, and the files beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import jinja2
import pandas as pd
import plotly.offline
from markupsafe import Markup

from ..fit import Fit
from ..study import Study
from ..tables.table import RunTable
from .chart import Figure
from .content import Content, content_of
from .facts import facts
from .interactive import interactive
from .numbers import count
from .runs import MOST_DRAWN
from .summary import why_none
from .tables import runs_view
from .theme import SHADES, palettes

RELOAD_SECONDS = 30  # of a page whose sweep is still running
WARNINGS_SHOWN = 3  # in full at the top; more would push the numbers off the first screen


def write_report(
    path: Path,
    *,
    title: str,
    table: RunTable,
    fit: Fit | None,
    manifest: Mapping[str, object] | None,
    environment: Mapping[str, str],
    runs: pd.DataFrame | None,
    study: Study | None = None,
    in_progress: str | None = None,
    pages: Mapping[str, str] | None = None,
) -> Path:
    """Write the report to `path`, replacing what was there in one step, and return `path`.

    The page is one file that works offline: plotly.js is inside, nothing is fetched, and a content security policy forbids that
    anything ever is. Every string from outside is escaped. With a study there is a folder beside it, report-files for report.html, with
    every figure as PNG, SVG and CSV, the estimates and the methods as LaTeX, and the page links to them.

    Args:
        table: the runs that the law was fitted to, in the order of `fit.residuals`.
        fit: None where there are too few runs for a law: the page then shows the runs and says why there is none.
        manifest: what the corpus was made of, as its manifest.json says; None where the corpus is unknown.
        environment: versions and machine, a label and a value each.
        runs: every run in any state for the table of runs; None shows those of `table`.
        study: the analyses of `fit`; None shows the fit alone.
        in_progress: how far a sweep is whose runs still land, "7 of 20 runs": the page says so and reloads itself.
        pages: other pages beside this one, a title and a relative link each.

    Raises:
        OSError: a file cannot be written; a page that was there before is untouched.
    """
    path = Path(path)
    content = content_of(table, fit, study)
    folder = path.with_name(f"{path.stem}-files")
    files = "" if study is None else folder.name
    html = render(
        content,
        title=title,
        manifest=manifest,
        environment=environment,
        runs=runs,
        files=files,
        in_progress=in_progress,
        pages=pages,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    if study is not None:
        from .paper import write_files  # matplotlib takes a while to load, and only this needs it

        write_files(folder, content)
    return write_whole(path, html)


def write_whole(path: Path, html: str) -> Path:
    """Writes a page in one step: a browser that reloads never sees half of one."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_text(html, encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def render(
    content: Content,
    *,
    title: str,
    manifest: Mapping[str, object] | None,
    environment: Mapping[str, str],
    runs: pd.DataFrame | None,
    files: str = "",
    in_progress: str | None = None,
    pages: Mapping[str, str] | None = None,
) -> str:
    """The report as a string of HTML; `files` is the name of the folder beside it, "" for none, the others are as for `write_report`."""
    table = content.table
    return template("page.html.j2").render(
        title=title,
        content=content,
        fit=content.fit,
        table=table,
        span=_span(table),
        no_law=why_none(table),
        specs={figure.id: json_of(figure) for figure in content.figures},
        runs=runs_view(table.frame if runs is None else runs, table),
        manifest=facts(manifest or {}),
        environment=facts(environment),
        palettes=palettes(),
        shades=range(SHADES),
        warnings_shown=WARNINGS_SHOWN,
        most_drawn=MOST_DRAWN,
        files=quote(files),
        in_progress=in_progress,
        reload_seconds=RELOAD_SECONDS,
        pages={title: quote(link) for title, link in (pages or {}).items()},
        plotly_js=Markup(plotly.offline.get_plotlyjs()),
    )


def template(name: str) -> jinja2.Template:
    """A page's template by its file name."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def json_of(figure: Figure) -> Markup:
    """The figure for a <script type="application/json">: with no "<" in it no string can close the element."""
    return Markup(str(interactive(figure.chart).to_json()).replace("<", "\\u003c").replace(">", "\\u003e"))


def _span(table: RunTable) -> dict[str, str] | None:
    if len(table.N) == 0:
        return None
    ends = {"N": table.N, "D": table.D}
    return {name: " to ".join(dict.fromkeys(map(count, (values.min(), values.max())))) for name, values in ends.items()}
