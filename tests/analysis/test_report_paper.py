"""What a report gives to a paper: figures as files, their numbers, LaTeX."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from sixnd.analysis.fit import fit
from sixnd.analysis.report import paper, write_report
from sixnd.analysis.report.chart import Axis, Band, Chart, Contours, Label, Line, Points, log_ticks
from sixnd.analysis.report.content import Content, content_of
from sixnd.analysis.report.estimates import latex_table
from sixnd.analysis.report.heldout import held_out
from sixnd.analysis.report.latex import escaped, math, number
from sixnd.analysis.report.methods import CITATIONS, as_latex, as_text, bibliography, paragraph
from sixnd.analysis.report.paper import data, write_figures, write_files
from sixnd.analysis.study import Study

HOSTILE = "</script><script>window.pwned=1</script>\\input{x}$&%#_{}~^"


def test_methods_state_what_was_done(study: Study) -> None:
    marked = paragraph(study.fit, study, held_out(study))
    text = as_text(marked)
    best = study.fit.optimum
    for said in (
        "25 runs",
        "δ = 0.001",
        f"{best.starts} starts",
        f"{best.starts_agreeing} starts ended",
        "100 refits",
        "seed 0",
    ):
        assert said in text
    assert "(Hoffmann et al., 2022)" in text and "[@" not in text
    assert "absolute values" in paragraph(fit(study.table, loss="l1", bootstrap=0), None, None)
    assert "No intervals" in paragraph(fit(study.table, bootstrap=0), None, None)


def test_latex_is_safe_and_cites_what_is_in_the_bibliography(study: Study) -> None:
    odd = replace(study.fit, columns={**study.fit.columns, "N": f"[@none] ⟦{HOSTILE}⟧"})
    marked = paragraph(odd, study, None)
    latex, entries = as_latex(marked), bibliography(marked)
    assert "\\input" not in latex and "\\textbackslash{}input\\{x\\}" in latex
    assert not re.search(r"(?<!\\)[&%#_]", re.sub(r"\\citep\{[^}]*\}|\$[^$]*\$", "", latex))
    cited = {key for group in re.findall(r"\\citep\{([^}]*)\}", latex) for key in group.split(",")}
    assert cited and cited <= CITATIONS.keys()
    assert set(re.findall(r"@misc\{(\w+),", entries)) == cited
    assert r"$L = A/N^\alpha + B/D^\beta + E$~\citep{hoffmann2022}" in latex


def test_latex_table_is_well_formed(study: Study) -> None:
    table = latex_table(study.fit, study)
    body = table.split("\\midrule\n")[1].split("    \\bottomrule")[0].strip().splitlines()
    assert len(body) == 8 and all(line.count("&") == 4 and line.endswith(r"\\") for line in body)
    assert body[3].strip().startswith(r"$\alpha$ & 0.")
    assert table.count("\\begin") == table.count("\\end") == 2
    assert math("L = ((Nc/N)^(alpha/beta) + Dc/D)^beta") == r"$L = ((Nc/N)^{\alpha /\beta } + Dc/D)^\beta$"
    assert number("10,000 to 17,000") == r"[10\,000, 17\,000]"
    assert number("4.2e7") == r"$4.2 \times 10^{7}$" and number("-1 to 2e-3") == r"[$-$1, $2 \times 10^{-3}$]"
    assert escaped("a_b\n50 % of α") == r"a\_b 50 \% of $\alpha$"


def test_csv_holds_every_number_that_is_drawn() -> None:
    x, y = np.array([1.0, 2.0]), np.array([3.0, 4.0])
    chart = Chart(
        Axis("size", "count", (0, 1)),
        Axis("loss", "plain", (0, 1)),
        (
            Points("runs", x, y, ["var(--ink)"] * 2, ["", ""], below=np.array([0.5, 0.25]), above=np.array([1.0, 1.0])),
            Line("law", x, y, "var(--ink)"),
            Band("band", (x, y), (x, y + 1)),
            Contours("surface", x, y, np.array([[1.0, 2.0], [3.0, 4.0]])),
            Label(1, 1, "word"),
        ),
    )
    table = data(chart)
    assert list(table.columns) == ["series", "size", "loss", "low", "high", "z"]
    assert table["series"].value_counts().to_dict() == {
        "runs": 2, "law": 2, "band, low end": 2, "band, high end": 2, "surface": 4,
    }  # fmt: skip
    assert table.loc[0, ["low", "high"]].tolist() == [2.5, 4.0]
    assert table[(table["series"] == "surface") & (table["size"] == 2) & (table["loss"] == 3)]["z"].tolist() == [2.0]


def test_ticks_on_paper_are_round_and_apart() -> None:
    assert log_ticks(6.0, 9.0, 0.25) == [1e6, 2e6, 5e6, 1e7, 2e7, 5e7, 1e8, 2e8, 5e8, 1e9]
    assert log_ticks(6.0, 9.0, 0.4) == [1e6, 3e6, 1e7, 3e7, 1e8, 3e8, 1e9]
    assert log_ticks(10.0, 20.0, 1.5) == [10.0**k for k in range(10, 21, 2)]
    assert log_ticks(np.log10(3.1), np.log10(4.1), 0.01) == pytest.approx([3.2, 3.4, 3.6, 3.8, 4.0])


def test_files_for_a_paper_lie_beside_the_page(tmp_path: Path, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = replace(study, profiles=(), isoflop=None, isoflop_bias=None, envelope=None, metrics=None, forecast=None)
    folder = tmp_path / "report-files"
    folder.mkdir()
    (folder / "isoflop.png").write_bytes(b"old")
    (folder / "notes.md").write_text("mine")
    path = write_report(
        tmp_path / "report.html", title="t", table=bare.table, fit=bare.fit, manifest=None, environment={}, runs=None, study=bare
    )  # fmt: skip
    html = path.read_text()
    linked = re.findall(r'href="(report-files/[^"]+)"', html)
    assert linked and all((tmp_path / link).stat().st_size > 0 for link in linked)
    assert {p.suffix for p in folder.iterdir()} == {".png", ".svg", ".csv", ".tex", ".bib", ".md"}
    assert not (folder / "isoflop.png").exists() and (folder / "notes.md").read_text() == "mine"
    assert (folder / "loss-tokens.png").read_bytes().startswith(b"\x89PNG")
    assert ElementTree.parse(folder / "loss-tokens.svg").getroot().tag.endswith("svg")
    points = pd.read_csv(folder / "loss-tokens.csv")
    assert points[points["series"] == "runs"]["test loss, nats per token"].tolist() == pytest.approx(
        bare.table.loss.tolist()
    )
    before = (folder / "loss-tokens.svg").read_bytes()
    first = content_of(bare.table, bare.fit, bare).figures[0]
    monkeypatch.setattr(paper, "figures", lambda *_: [first])
    again = write_figures(tmp_path / "again", bare)
    assert [file.name for file in again] == ["loss-tokens.png", "loss-tokens.svg", "loss-tokens.csv"]
    assert again[1].read_bytes() == before  # the same study, the same file


def test_a_folder_that_cannot_be_written_leaves_the_page_alone(tmp_path: Path, study: Study, content: Content) -> None:
    (tmp_path / "report.html").write_text("before")
    (tmp_path / "report-files").write_text("a file in the way")
    with pytest.raises(OSError):
        write_report(
            tmp_path / "report.html", title="t", table=study.table, fit=study.fit, manifest=None, environment={}, runs=None, study=study
        )  # fmt: skip
    assert (tmp_path / "report.html").read_text() == "before"
    with pytest.raises(OSError):
        write_files(tmp_path / "report-files", content)
