"""The report in a real browser: it draws, asks for nothing, complains of nothing, and is readable on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sixnd.analysis.fit import fit
from sixnd.analysis.report import write_report
from sixnd.analysis.tables.table import RunTable

from tests import chromium, simulated

pytestmark = pytest.mark.skipif(
    chromium.executable() is None, reason="no Chromium on the PATH or in $CHROMIUM: the report is not seen in a browser"
)

HOSTILE = '</script><script>window.pwned=1</script><img src=x onerror="window.pwned=1">'
FIGURES = [
    "loss-tokens", "loss-contours", "loss-parameters", "loss-compute", "residuals-D", "residuals-N", "residuals-C",
    "cloud-exponents", "cloud-frontier",
]  # fmt: skip
# What each figure holds, as the browser sees it: traces drawn, and whether every number in them is finite.
DRAWN = """[...document.querySelectorAll('.js-plotly-plot')].map(plot => ({
    id: plot.id, traces: plot.data.length, svg: plot.querySelectorAll('.trace').length,
    finite: plot.data.every(t => [t.x, t.y, (t.z || []).flat()].every(values => values.every(Number.isFinite))),
    points: plot.data.filter(t => t.mode === 'markers').reduce((n, t) => n + t.x.length, 0)}))"""
SMALL_TEXT = """[...document.querySelectorAll('body *')].filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
    .filter(e => !e.closest('script, style, noscript') && e.getClientRects().length)
    .filter(e => parseFloat(getComputedStyle(e).fontSize) < 12).map(e => e.tagName + ' ' + e.textContent.slice(0, 40))"""
OVERLAPS = """[...document.querySelectorAll('.plot')].flatMap(plot => ['.xtick text', '.ytick text'].flatMap(axis => {
    const boxes = [...plot.querySelectorAll(axis)].map(t => t.getBoundingClientRect()).filter(b => b.width);
    return boxes.flatMap((a, i) => boxes.slice(i + 1).filter(b =>
        a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom).map(() => plot.id + axis)).concat(
        boxes.length < 2 ? [plot.id + axis + ': only ' + boxes.length] : []);
}))"""
# Titles and ticks of axes that reach beyond their figure, where they are cut off.
CLIPPED = """[...document.querySelectorAll('.plot')].flatMap(plot => {
    const box = plot.getBoundingClientRect();
    return [...plot.querySelectorAll('.xtick text, .ytick text, .xtitle, .annotation-text')].map(t => [t, t.getBoundingClientRect()]).filter(([, b]) =>
        b.width && (b.left < box.left - 1 || b.right > box.right + 1 || b.bottom > box.bottom + 1 || b.top < box.top - 1)).map(([t]) => plot.id + ': ' + t.textContent);
})"""
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
    assert all(figure["points"] == 20 for figure in shown if not figure["id"].startswith("cloud"))


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
    for width in (1280, 700, 390):
        opened.resize(width)
        assert opened.js(OVERLAPS) == []
        assert opened.js(CLIPPED) == []


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
    stuck = "[...document.querySelectorAll('.plot, .scroll, .text pre, .text button, .legend button, .sortable th button, summary, a')].filter(e => e.tabIndex < 0).length"
    assert opened.js(stuck) == 0


def key(page: chromium.Page, name: str) -> None:
    for kind in ("keyDown", "keyUp"):
        page.send(
            "Input.dispatchKeyEvent", type=kind, key=name, text=name if kind == "keyDown" and len(name) == 1 else ""
        )
    page.settle()


def test_figures_answer_the_keyboard(opened: chromium.Page) -> None:
    """Arrows go from point to point and say it, + zooms in about it, 0 shows all again."""
    span = "document.getElementById('loss-tokens').layout.xaxis.range"
    said = "document.getElementById('said').textContent"
    whole = opened.js(span)
    opened.js("document.getElementById('loss-tokens').focus()")
    key(opened, "ArrowRight")
    first = opened.js(said)
    assert first.startswith("N ") and "D 500k" in first
    assert opened.js("document.querySelectorAll('#loss-tokens .hoverlayer .hovertext').length") == 1
    key(opened, "ArrowRight")
    assert opened.js(said) not in ("", first)
    key(opened, "ArrowLeft")
    assert opened.js(said) == first
    key(opened, "+")
    near = opened.js(span)
    assert near[1] - near[0] == pytest.approx(0.6 * (whole[1] - whole[0]))
    key(opened, "0")
    assert opened.js(span) == whole


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a study with every section."""
    study = simulated.simulated_study()
    path = tmp_path_factory.mktemp("full") / "report.html"
    return write_report(
        path, title="full", table=study.table, fit=study.fit, manifest=None, environment={}, runs=None, study=study
    )


@pytest.mark.parametrize("width", [1280, 380])
def test_a_study_draws_every_figure_and_fits_the_window(page: chromium.Page, full: Path, width: int) -> None:
    page.requests.clear()
    page.complaints.clear()
    page.resize(width)
    page.open(full)
    shown = page.js(DRAWN)
    assert len(shown) == len(list(full.with_name("report-files").glob("*.png"))) == 20
    assert all(figure["svg"] > 0 and figure["finite"] for figure in shown)
    assert page.js("document.documentElement.scrollWidth") <= width
    assert page.js(SMALL_TEXT) == []
    assert page.js(OVERLAPS) == []
    assert page.js(CLIPPED) == []
    for dark in (True, False):
        page.dark(dark)
    page.settle()
    assert page.requests == [full.as_uri()] and page.complaints == []


def test_summary_of_a_study_fits_one_screen(page: chromium.Page, full: Path) -> None:
    page.resize(1280)
    page.open(full)
    assert page.js("document.querySelector('.contents').getBoundingClientRect().top") < 900


def test_every_file_that_is_linked_exists(page: chromium.Page, full: Path) -> None:
    page.open(full)
    links = page.js("[...document.querySelectorAll('a:not([href^=\"#\"])')].map(a => a.getAttribute('href'))")
    assert len(links) == 3 * 20 + 3
    assert all((full.parent / link).stat().st_size > 0 for link in links)


def test_copy_puts_the_text_on_the_clipboard(page: chromium.Page, full: Path) -> None:
    page.open(full)
    page.js("document.addEventListener('copy', () => { window.copied = String(getSelection()); })")
    click = "document.querySelector('[data-copies=latex-table]').click()"
    page.send("Runtime.evaluate", expression=click, userGesture=True)
    assert page.js("window.copied").startswith("\\begin{table}")
