"""The report of a study: what it shows of each analysis, what it says of those left out."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from sixnd.analysis.fit import fit
from sixnd.analysis.methods.metrics import MetricStudy
from sixnd.analysis.report.chart import Figure, Label, Line, Points
from sixnd.analysis.report.content import Content, content_of
from sixnd.analysis.report.heldout import held_out
from sixnd.analysis.report.numbers import count, flops, rounded_interval
from sixnd.analysis.report.page import render
from sixnd.analysis.report.study_figures import profile_figure
from sixnd.analysis.report.study_tables import study_tables
from sixnd.analysis.study import Study
from sixnd.analysis.verdicts.verdict import Verdict

from tests import simulated

HOSTILE = "</script><script>window.pwned=1</script>\\input{x}$&%#_{}~^"


def page(content: Content, files: str = "") -> str:
    return render(content, title="t", manifest=None, environment={}, runs=None, files=files)


def words(html: str) -> str:
    """The text of the page without its scripts and styles."""
    bare = re.sub(r"<(script|style)\b.*?</\1>", " ", html, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", bare).split())


def figure(content: Content, id_: str) -> Figure:
    return next(figure for figure in content.figures if figure.id == id_)


def mark(drawn: Figure, name: str) -> Points | Line:
    found = next(mark for mark in drawn.chart.marks if not isinstance(mark, Label) and mark.name == name)
    assert isinstance(found, Points | Line)
    return found


def test_first_come_the_numbers_then_the_warnings_then_the_budgets(study: Study, content: Content) -> None:
    text = words(page(content))
    edge = study.fit.frontier
    assert study.forecast is not None and edge.a_ci95 is not None
    last = edge.budgets
    _, low, high = study.forecast.interval(last.N[2], last.D[2])
    places = [
        text.index(said)
        for said in (
            f"95 %: {rounded_interval(edge.a_ci95)}",
            f"95 %: {rounded_interval((float(low), float(high)))} loss of a new run at {flops(last.C[2])} FLOPs",
            study.warnings[0].code,
            "The best use of a compute budget",
            "Loss against training tokens",
        )
    ]
    assert places == sorted(places)


def test_many_warnings_are_all_there_with_their_codes_in_sight(study: Study) -> None:
    warnings = tuple(Verdict(f"code_{i}", f"message {i}") for i in range(6))
    html = page(content_of(study.table, study.fit, replace(study, warnings=warnings)))
    folded = html.split("<details><summary>")[1].split("</details>")[0]
    assert [html.count(f"Message {i}") for i in range(6)] == [1] * 6
    assert "Message 2" not in folded and "Message 3" in folded
    assert "and 3 more" in folded.split("</summary>")[0] and "code_5" in folded.split("</summary>")[0]


def test_what_is_left_out_is_said_with_its_reason(study: Study) -> None:
    less = replace(
        study, forecast=None, comparison=None, isoflop=None, isoflop_bias=None, envelope=None, metrics=None,
        overtraining=None, data_wall=None, profiles=(),
        skipped={"isoflop": "too few budgets", "metrics": HOSTILE, "profile of L*": "no optimum"},
    )  # fmt: skip
    content = content_of(study.table, study.fit, less)
    html, text = page(content), words(page(content))
    assert "IsoFLOP parabolas: too few budgets" in text
    assert "Profile of L*: no optimum" in text
    assert "<script>window.pwned" not in html
    assert [section.id for section in content.sections] == ["fit", "residuals", "uncertainty"]
    assert "loss of a new run" not in text and f"loss at {flops(study.fit.frontier.budgets.C[2])} FLOPs" in text
    whole = words(page(content_of(study.table, study.fit, study)))
    assert "Left out" not in whole


def test_profile_shows_the_cut_off_and_says_where_there_is_no_limit(study: Study) -> None:
    alpha, amplitude, size = (profile_figure(profile, "third") for profile in study.profiles)
    assert alpha.id == "profile-alpha" and size.id == "profile-N-star"
    curve, bar = mark(alpha, "profile"), mark(alpha, "95 % interval")
    np.testing.assert_allclose(np.interp(bar.x, curve.x, curve.y), 1.0, atol=0.02)  # 1 is the cut-off
    assert "no limit to 1,26" in amplitude.caption and "2 valleys" in amplitude.caption
    assert amplitude.chart.x.logarithmic and not alpha.chart.x.logarithmic
    assert "the runs set no limit" in size.caption and "ten times the largest compute" in size.caption


def test_held_out_runs_are_forecast_without_having_been_seen(study: Study) -> None:
    held = held_out(study)
    assert held is not None and len(held.rows) + held.n_trained == len(study.table.N)
    C = 6 * study.table.N * study.table.D
    assert C[held.rows].min() > held.trained
    spoiled = study.table.loss.copy()
    spoiled[held.rows] *= 1.3
    other = replace(study.table, loss=spoiled)
    bad = replace(study, table=other, fit=fit(other, bootstrap=0))
    again = held_out(bad)
    assert again is not None
    np.testing.assert_allclose(again.loss, held.loss, rtol=1e-6)
    assert not again.inside.any() and held.inside.mean() > 0.5


def test_held_out_figure_tells_hits_from_misses(study: Study, content: Content) -> None:
    held = held_out(study)
    assert held is not None
    drawn = figure(content, "held-out")
    inside, outside = mark(drawn, "inside"), mark(drawn, "outside")
    assert len(inside.x) == held.inside.sum() and len(outside.x) == (~held.inside).sum()
    assert isinstance(inside, Points) and inside.above is not None and inside.below is not None
    assert (inside.y - inside.below <= inside.x).all() and (inside.x <= inside.y + inside.above).all()
    assert f"{int(held.inside.sum())} of {len(held.rows)} intervals" in drawn.caption


def test_isoflop_and_envelope_draw_what_was_found(study: Study, content: Content) -> None:
    assert study.isoflop is not None and study.envelope is not None
    vertices = mark(figure(content, "isoflop"), "vertices")
    assert sorted(vertices.x) == sorted(parabola.N for parabola in study.isoflop.parabolas)
    line = mark(figure(content, "isoflop-optimum"), "parabolas")
    assert np.diff(np.log(line.y[[0, -1]])) / np.diff(np.log(line.x[[0, -1]])) == pytest.approx(study.isoflop.a)
    lowest = mark(figure(content, "envelope"), "envelope")
    np.testing.assert_array_equal(lowest.y, study.envelope.loss)
    runs = [m for m in figure(content, "envelope").chart.marks if isinstance(m, Line) and m.name.startswith("run ")]
    assert len(runs) == 25
    law = mark(figure(content, "isoflop-optimum"), "law")
    np.testing.assert_allclose(law.y, study.fit.optimal(law.x).N)


def test_bias_of_the_parabolas_is_taken_off(study: Study) -> None:
    assert study.isoflop is not None and study.isoflop_bias is not None
    biased = replace(study, isoflop_bias=replace(study.isoflop_bias, a=0.2))
    table = next(table for table in study_tables(study.fit, biased) if table.id == "methods-a")
    values = {row[0][0]: float(row[1][0]) for row in table.rows}
    assert values["IsoFLOP parabolas"] - values["IsoFLOP, bias removed"] == pytest.approx(0.2, abs=0.011)


def test_metrics_are_drawn_sharp_and_smooth(study: Study, content: Content) -> None:
    assert isinstance(study.metrics, MetricStudy)
    sharp, smooth = figure(content, "metrics-linear"), figure(content, "metrics-log")
    assert not sharp.chart.y.logarithmic and smooth.chart.y.logarithmic
    for metric in study.metrics.metrics[1:]:
        np.testing.assert_array_equal(mark(sharp, metric.name).y, metric.measured)
        np.testing.assert_array_equal(mark(smooth, f"{metric.name}, predicted").y, metric.frontier)


def test_tables_hold_the_numbers_of_the_study(study: Study, content: Content) -> None:
    tables = {table.id: table for section in content.sections for table in section.tables}
    assert list(tables) == [
        "estimates", "comparison", "methods-a", "metrics-table", "overtraining", "data-wall", "repeating",
    ]  # fmt: skip
    assert [row[0][0] for row in tables["estimates"].rows] == ["A", "B", "E", "α", "β", "a", "b", "N*"]
    assert tables["comparison"].rows[1][2] == ("+0.0100", "± 0.0020")
    assert study.overtraining is not None and study.data_wall is not None
    unreachable = ~np.isfinite(study.overtraining.same_loss_compute)
    assert [row[4][0] == "never" for row in tables["overtraining"].rows] == unreachable.tolist()
    assert tables["data-wall"].rows[0][1][0] == count(study.data_wall.low.unique_tokens)
    html = page(content)
    assert html.count("<table") == len(tables) + 2  # budgets and runs


def test_names_of_runs_stay_text_everywhere(study: Study) -> None:
    table = study.table.frame.assign(key=HOSTILE)
    odd = simulated.study_of(replace(study.table, frame=table, source=HOSTILE), study.fit)
    html = page(content_of(odd.table, odd.fit, odd), files="report-files")
    assert "<script>window.pwned" not in html and "&lt;script&gt;window.pwned" in html


@pytest.mark.parametrize("law", ["tied", "kaplan", "loglinear", "envelope"])
def test_other_laws_have_a_report_too(study: Study, law: str) -> None:
    fitted = fit(study.table, law, bootstrap=20)
    other = replace(
        study, fit=fitted, profiles=(), overtraining=None, data_wall=None, warnings=fitted.warnings, forecast=None
    )
    html = page(content_of(study.table, fitted, other))
    assert fitted.model.formula in html.replace("&#39;", "'")
    assert "<math" not in html and "nan" not in words(html).lower().split()
