"""The report in a real browser: it draws, asks for nothing, complains of nothing, and is readable on a phone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sixnd.analysis.fit import fit
from sixnd.analysis.report import write_report
from sixnd.analysis.table import RunTable

sys.path.insert(0, str(Path(__file__).parents[1]))
import chromium

pytestmark = pytest.mark.skipif(
    chromium.executable() is None, reason="no Chromium on the PATH or in $CHROMIUM: the report is not seen in a browser"
)

HOSTILE = '</script><script>window.pwned=1</script><img src=x onerror="window.pwned=1">'
FIGURES = ["loss-tokens", "loss-contours", "loss-compute", "residuals-D", "residuals-N"]
# What each figure holds, as the browser sees it: traces drawn, and whether every number in them is finite.
DRAWN = """[...document.querySelectorAll('.js-plotly-plot')].map(plot => ({
    id: plot.id, traces: plot.data.length, svg: plot.querySelectorAll('.trace').length,
    finite: plot.data.every(t => [t.x, t.y, (t.z || []).flat()].every(values => values.every(Number.isFinite))),
    points: plot.data.filter(t => t.mode === 'markers').reduce((n, t) => n + t.x.length, 0)}))"""
SMALL_TEXT = """[...document.querySelectorAll('body *')].filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
    .filter(e => !e.closest('script, style, noscript') && e.getClientRects().length)
    .filter(e => parseFloat(getComputedStyle(e).fontSize) < 12).map(e => e.tagName + ' ' + e.textContent.slice(0, 40))"""
COLUMN = "[...document.querySelectorAll('.sortable tbody tr')].map(row => row.cells[%d].textContent)"


def runs(rng: np.random.Generator) -> pd.DataFrame:
    N, D = (grid.ravel() for grid in np.meshgrid(np.geomspace(25e3, 440e3, 5), [5e5, 1e6, 2e6, 4e6], indexing="ij"))
    loss = (2.0 + 40 / N**0.4 + 330 / D**0.41) * np.exp(0.01 * rng.standard_normal(len(N)))
    frame = pd.DataFrame({"state": "done", "N_total": N.round(), "D": D, "test_loss": loss, "test_loss_se": 0.01})
    return frame.assign(key=[f"run{i:02d}" for i in range(len(N))], error=None)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    done = runs(np.random.default_rng(0))
    N, D, loss = (done[name].to_numpy(dtype=float) for name in ("N_total", "D", "test_loss"))
    table = RunTable(N, D, loss, done, "runs.jsonl", "N_total", "D", "test_loss")
    lost = done.iloc[[0]].assign(state="failed", test_loss=np.nan, test_loss_se=np.nan, error=HOSTILE, key=HOSTILE)
    path = tmp_path_factory.mktemp("report") / "report.html"
    manifest: dict[str, object] = {"name": HOSTILE, "sources": [{"name": "sotu", "licence": "US public domain"}]}
    return write_report(
        path, title=f"demo {HOSTILE}", table=table, fit=fit(table, bootstrap=200), manifest=manifest,
        environment={"machine": HOSTILE}, runs=pd.concat([done, lost], ignore_index=True),
    )  # fmt: skip


@pytest.fixture(scope="module")
def page() -> Iterator[chromium.Page]:
    with chromium.browser() as opened:
        yield opened


@pytest.fixture
def opened(page: chromium.Page, report: Path) -> Iterator[chromium.Page]:
    """The report, freshly loaded in a desktop window; afterwards it must have asked for and complained of nothing."""
    page.requests.clear()
    page.complaints.clear()
    page.resize(1280)
    page.open(report)
    yield page
    page.settle()
    assert [url for url in page.requests if not url.startswith(("data:", "blob:"))] == [report.as_uri()]
    assert page.complaints == []


def look(opened: chromium.Page) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = opened.js(DRAWN)
    return shown


def test_every_figure_is_drawn(opened: chromium.Page) -> None:
    shown = look(opened)
    assert [figure["id"] for figure in shown] == FIGURES
    assert all(figure["traces"] > 0 and figure["svg"] > 0 and figure["finite"] for figure in shown)
    assert all(figure["points"] == 20 for figure in shown)


def test_strings_from_outside_run_nothing(opened: chromium.Page) -> None:
    assert opened.js("typeof window.pwned") == "undefined"
    assert opened.js("document.title") == f"demo {HOSTILE}"
    assert opened.js("document.images.length") == 0


@pytest.mark.parametrize("width", [390, 320, 1280])
def test_fits_the_window(opened: chromium.Page, width: int, tmp_path: Path) -> None:
    opened.resize(width)
    assert opened.js("document.documentElement.scrollWidth") <= width
    assert opened.js(SMALL_TEXT) == []
    widths = opened.js(
        "[...document.querySelectorAll('.plot')].map(p => [p.clientWidth, p.querySelector('.main-svg').clientWidth])"
    )
    assert all(abs(box - drawing) <= 1 for box, drawing in widths)
    assert opened.screenshot(tmp_path / f"{width}.png").stat().st_size > 50_000


def test_labels_of_the_axes_never_overlap(opened: chromium.Page) -> None:
    overlaps = """[...document.querySelectorAll('.plot')].flatMap(plot => ['.xtick text', '.ytick text'].flatMap(axis => {
        const boxes = [...plot.querySelectorAll(axis)].map(t => t.getBoundingClientRect()).filter(b => b.width);
        return boxes.flatMap((a, i) => boxes.slice(i + 1).filter(b =>
            a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom).map(() => plot.id + axis)).concat(
            boxes.length < 2 ? [plot.id + axis + ': only ' + boxes.length] : []);
    }))"""
    for width in (1280, 700, 390):
        opened.resize(width)
        assert opened.js(overlaps) == []


def test_zooming_brings_new_ticks(opened: chromium.Page) -> None:
    ticks = "document.getElementById('loss-tokens').layout.xaxis.ticktext"
    before = opened.js(ticks)
    opened.js("Plotly.relayout('loss-tokens', {'xaxis.range[0]': 6.0, 'xaxis.range[1]': 6.1}).then(() => 0)")
    opened.settle()
    assert before == ["500k", "1M", "2M"]
    assert opened.js(ticks)[:3] == ["1M", "1.02M", "1.04M"]


def test_dark_page_redraws_in_its_own_colours(opened: chromium.Page) -> None:
    colours = (
        "[getComputedStyle(document.body).backgroundColor, document.getElementById('loss-tokens').layout.font.color]"
    )
    light = opened.js(colours)
    opened.dark()
    dark = opened.js(colours)
    opened.dark(False)
    assert light[0] != dark[0] and light[1] != dark[1]
    assert opened.js(colours) == light
    assert len(look(opened)) == len(FIGURES)


def test_legend_hides_and_shows(opened: chromium.Page) -> None:
    visible = (
        "document.getElementById('loss-tokens').data.filter(t => t.legendgroup === 'N0' && t.visible !== false).length"
    )
    click = "document.querySelector('[data-figure=loss-tokens][data-group=N0]').click()"
    assert opened.js(visible) == 2  # its points and its curve
    opened.js(click)
    opened.settle()
    assert opened.js(visible) == 0
    opened.js(click)
    opened.settle()
    assert opened.js(visible) == 2


def test_table_sorts_by_number_with_empty_cells_last(opened: chromium.Page) -> None:
    labels = opened.js("[...document.querySelectorAll('.sortable th')].map(th => th.textContent)")
    loss = labels.index("test loss")
    click = f"document.querySelectorAll('.sortable th button')[{loss}].click()"
    opened.js(click)
    up = opened.js(COLUMN % loss)
    opened.js(click)
    down = opened.js(COLUMN % loss)
    assert up[:-1] == sorted(up[:-1], key=float) and down[:-1] == sorted(up[:-1], key=float, reverse=True)
    assert up[-1] == down[-1] == ""
    assert opened.js(f"document.querySelectorAll('.sortable th')[{loss}].getAttribute('aria-sort')") == "descending"


def test_everything_that_scrolls_or_acts_takes_the_keyboard(opened: chromium.Page) -> None:
    stuck = "[...document.querySelectorAll('.scroll, .legend button, .sortable th button, summary')].filter(e => e.tabIndex < 0).length"
    assert opened.js(stuck) == 0
