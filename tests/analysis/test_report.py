"""The report as a document: what it says, that it says it safely, and that it is written whole or not at all."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sixnd.analysis.fit import Fit, fit
from sixnd.analysis.report import write_report
from sixnd.analysis.report.chart import Axis, Figure
from sixnd.analysis.report.content import content_of
from sixnd.analysis.report.figures import figures
from sixnd.analysis.report.interactive import interactive
from sixnd.analysis.report.numbers import count, flops, rounded, rounded_interval
from sixnd.analysis.report.page import json_of, render
from sixnd.analysis.tables.table import RunTable
from sixnd.analysis.verdicts import Verdict

from tests.simulated import LOSSES, as_table, small_ledger

HOSTILE = '</script><script>window.pwned=1</script><img src=x onerror="window.pwned=1">\'"&'


@pytest.fixture(scope="module")
def table() -> RunTable:
    return as_table(small_ledger())


@pytest.fixture(scope="module")
def fitted(table: RunTable) -> Fit:
    return fit(table, bootstrap=200)


def page(table: RunTable, fitted: Fit | None, **changes: Any) -> str:
    given: dict[str, Any] = {"title": "demo", "manifest": None, "environment": {"torch": "2.13.0"}, "runs": None}
    return render(content_of(table, fitted), **(given | changes))


class Document(HTMLParser):
    """The page as a browser's parser sees it: elements, and the text outside scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        if tag == self.inside:
            self.inside = ""

    def handle_data(self, data: str) -> None:
        if not self.inside:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def drawn(made: list[Figure], id_: str) -> Any:
    return interactive(next(figure for figure in made if figure.id == id_).chart)


def test_page_states_the_law_its_exponents_and_the_budgets(table: RunTable, fitted: Fit) -> None:
    text = Document(page(table, fitted)).text
    assert f"α {rounded(fitted.params['alpha'], fitted.ci95['alpha'])}" in text
    assert rounded_interval(fitted.ci95["alpha"]) in text
    assert f"95 %: {rounded_interval(fitted.frontier.a_ci95 or (0, 0))}" in text
    points = fitted.frontier.budgets
    assert points.N_ci95 is not None
    for C, N, D, band in zip(points.C, points.N, points.D, points.N_ci95, strict=True):
        assert flops(C) in text
        assert f"{count(N)} {count(band[0])} to {count(band[1])} {count(D)}" in text
    assert "†" in text  # the last of the default budgets is ten times the largest run


def test_page_shows_every_warning_with_its_code(table: RunTable, fitted: Fit) -> None:
    warned = replace(fitted, warnings=(Verdict("few_runs", "6 runs are few"), Verdict("outlier", "one lies far off")))
    text = Document(page(table, warned)).text
    assert "6 runs are few. few_runs" in text
    assert "One lies far off. outlier" in text
    assert "no check of the fit found anything" in Document(page(table, replace(fitted, warnings=()))).text


def test_page_without_a_law_says_why_and_still_shows_the_runs() -> None:
    few = as_table(small_ledger().iloc[:4])
    document = Document(page(few, None))
    assert "The corpus" not in document.text  # no manifest was given
    assert "4 runs have finished, and a law of five parameters needs at least 6" in document.text
    assert not document.all("math")
    assert [a["id"] for a in document.all("div") if a.get("class") == "plot"] == ["loss-tokens", "loss-compute"]
    one_size = as_table(pd.concat([small_ledger().iloc[:4]] * 2))
    assert "N is the same in all 8 runs" in Document(page(one_size, None)).text


def test_page_without_any_finished_run_has_no_figure() -> None:
    none = as_table(small_ledger().iloc[:0])
    planned = small_ledger().assign(state="planned", test_loss=np.nan, test_loss_se=np.nan)
    html = page(none, None, runs=planned)
    assert "no runs have finished" in html and "20 planned" in html
    assert not [a for a in Document(html).all("div") if a.get("class") == "plot"]


def test_page_without_a_bootstrap_claims_no_interval(table: RunTable) -> None:
    text = Document(page(table, fit(table, bootstrap=0))).text
    assert text.count("no interval: bootstrap off") == 5
    assert "95 %:" not in text and "bootstrap interval" not in text


def test_degenerate_law_is_drawn_and_written(table: RunTable, fitted: Fit) -> None:
    """Exponents and frontier that are undefined leave gaps, not errors."""
    nan = float("nan")
    odd = replace(fitted, params={"A": 1e300, "B": 0.0, "E": 3.5, "alpha": 3.0, "beta": 0.0},
                  frontier=replace(fitted.frontier, a=nan, b=nan, a_ci95=(nan, nan), b_ci95=(nan, nan)))  # fmt: skip
    document = Document(page(table, odd))
    assert "nan" not in document.text.lower().split()
    assert "Ten times the compute" not in document.text


def test_page_refers_to_nothing_outside(table: RunTable, fitted: Fit) -> None:
    html = page(table, fitted)
    document = Document(html)
    outward = [
        value
        for _, attributes in document.elements
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action", "poster", "data") and not str(value).startswith(("data:", "#"))
    ]
    assert outward == []
    assert "@import" not in html and "url(" not in html.split("</style>")[0]
    ids = [attributes["id"] for _, attributes in document.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_every_figure_has_a_caption_and_a_label(table: RunTable, fitted: Fit) -> None:
    document = Document(page(table, fitted))
    plots = [a for a in document.all("div") if a.get("class") == "plot"]
    assert [a["id"] for a in plots] == [
        "loss-tokens", "loss-contours", "loss-parameters", "loss-compute", "residuals-D", "residuals-N", "residuals-C",
        "cloud-exponents", "cloud-frontier",
    ]  # fmt: skip
    assert all(a["role"] == "application" and a["tabindex"] == "0" and a["aria-label"] for a in plots)
    assert len(document.all("figcaption")) == len(plots)


def test_hostile_strings_stay_text(table: RunTable, fitted: Fit) -> None:
    frame = small_ledger().rename(columns={"lr": HOSTILE})
    frame["note"] = HOSTILE
    frame.loc[0, ["state", "error"]] = ["failed", HOSTILE]
    bad_table = replace(table, frame=frame, source=HOSTILE, set_aside=(HOSTILE,))
    bad_fit = replace(fitted, warnings=(Verdict(HOSTILE, HOSTILE),))
    manifest = {HOSTILE: HOSTILE, "sources": [{"name": HOSTILE, HOSTILE: 1}], "test_documents": [HOSTILE] * 20}
    bad = Document(page(bad_table, bad_fit, title=HOSTILE, manifest=manifest, environment={HOSTILE: HOSTILE}))
    good = Document(page(table, fitted))
    assert len(bad.all("script")) == len(good.all("script"))
    assert not bad.all("img")
    assert bad.text.count("<img src=x") >= 12


def test_figure_json_cannot_close_its_script_element(table: RunTable, fitted: Fit) -> None:
    figure = figures(table, fitted)[0]
    chart = replace(figure.chart, x=Axis(HOSTILE + "<!--", "count", (0.0, 1.0)))
    written = str(json_of(replace(figure, chart=chart)))
    assert "<" not in written and ">" not in written
    assert json.loads(written)["layout"]["xaxis"]["title"]["text"] == HOSTILE + "<!--"


def test_figures_show_the_runs_and_what_the_fit_says(table: RunTable, fitted: Fit) -> None:
    made = figures(table, fitted)
    tokens = drawn(made, "loss-tokens")
    points = [trace for trace in tokens.data if trace.mode == "markers"]
    assert sorted((x, y) for trace in points for x, y in zip(trace.x, trace.y, strict=True)) == sorted(
        zip(table.D, table.loss, strict=True)
    )
    assert points[0].error_y.array[0] == pytest.approx(1.96 * 0.011)
    curve = next(trace for trace in tokens.data if trace.mode == "lines")
    np.testing.assert_allclose(curve.y, fitted.predict(min(LOSSES), np.array(curve.x)))

    surface = drawn(made, "loss-contours")
    contour = next(trace for trace in surface.data if trace.type == "contour")
    assert contour.z[3][7] == pytest.approx(float(fitted.predict(contour.x[7], contour.y[3])))
    frontier = next(trace for trace in surface.data if trace.legendgroup == "frontier" and trace.fill is None)
    C = 6 * frontier.x[50] * frontier.y[50]
    assert frontier.x[50] == pytest.approx(float(fitted.optimal(C).N[0]))

    percent = [y for trace in drawn(made, "residuals-D").data for y in trace.y]
    assert sorted(percent) == pytest.approx(sorted(100 * fitted.residuals))


def test_frontier_band_pairs_the_smallest_model_with_the_most_tokens(table: RunTable, fitted: Fit) -> None:
    traces = drawn(figures(table, fitted), "loss-contours").data
    band = next(trace for trace in traces if trace.type == "scatter" and trace.fill == "toself")
    C = 6 * np.array(band.x) * np.array(band.y)
    half = len(C) // 2
    np.testing.assert_allclose(C[:half], C[: half - 1 : -1], rtol=1e-3)  # both edges of a budget lie on its diagonal
    assert (np.array(band.x[:half]) <= np.array(band.x[: half - 1 : -1])).all()


def test_many_sizes_get_a_colour_scale_instead_of_a_legend() -> None:
    rng = np.random.default_rng(0)
    N, D = 10 ** rng.uniform(6, 9, 60), 10 ** rng.uniform(8, 10, 60)
    frame = pd.DataFrame({"N_total": N, "D": D, "test_loss": 1.8 + 400 / N**0.34 + 1500 / D**0.35})
    many = as_table(frame)
    figure = figures(many, fit(many, bootstrap=0))[0]
    assert figure.sizes == () and figure.scale == (count(N.min()), count(N.max()))
    plot = interactive(figure.chart)
    assert len(plot.data) < 10
    shades = {colour for trace in plot.data if trace.mode == "markers" for colour in trace.marker.color}
    assert len(shades) > 8


def test_written_whole_or_not_at_all(
    tmp_path: Path, table: RunTable, fitted: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {
        "title": "demo",
        "table": table,
        "fit": fitted,
        "manifest": None,
        "environment": {},
        "runs": None,
    }
    started = time.perf_counter()
    path = write_report(tmp_path / "new" / "report.html", **given)
    assert time.perf_counter() - started < 2
    before = path.read_bytes()
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    assert len(before) > 4_000_000 and before.endswith(b"</html>")

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="no space left"):
        write_report(path, **(given | {"title": "other"}))
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
