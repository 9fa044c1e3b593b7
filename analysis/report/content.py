"""Everything that the page shows and its files hold, worked out once: figures, tables, warnings, texts for a paper."""

from __future__ import annotations

from dataclasses import dataclass

from ..fit import Fit
from ..study import Study
from ..tables.table import RunTable
from ..verdicts.verdict import Verdict
from .chart import Figure
from .estimates import latex_table
from .figures import figures
from .heldout import HeldOut, held_out
from .methods import as_latex, as_text, bibliography, paragraph
from .study_tables import Table, study_tables
from .summary import Summary, summarise

SECTIONS = {
    "fit": "The fit",
    "residuals": "Residuals",
    "uncertainty": "How well the numbers are known",
    "prediction": "Forecasts of held-out runs",
    "methods-compared": "The other methods",
    "metrics": "Smooth and sharp metrics",
    "planning": "Smaller models and the data wall",
}
ANALYSES = {
    "forecast": "Predictive intervals",
    "comparison": "Comparison of laws",
    "isoflop": "IsoFLOP parabolas",
    "isoflop_bias": "Bias of the IsoFLOP parabolas",
    "envelope": "Envelope of training curves",
    "metrics": "Metric study",
    "overtraining": "Price of a smaller model",
    "data_wall": "Data wall",
}


@dataclass(frozen=True)
class Section:
    id: str
    title: str
    figures: tuple[Figure, ...]
    tables: tuple[Table, ...]


@dataclass(frozen=True)
class Texts:
    """For a paper: the methods paragraph as plain text, and the contents of methods.tex, estimates.tex and references.bib."""

    methods: str
    files: dict[str, str]


@dataclass(frozen=True)
class Content:
    """`skipped` are (analysis, reason) pairs; the page without a fit has the runs alone."""

    table: RunTable
    fit: Fit | None
    summary: Summary | None
    warnings: tuple[Verdict, ...]
    sections: tuple[Section, ...]
    skipped: tuple[tuple[str, str], ...]
    texts: Texts | None

    @property
    def figures(self) -> list[Figure]:
        return [figure for section in self.sections for figure in section.figures]


def content_of(table: RunTable, fit: Fit | None, study: Study | None = None) -> Content:
    """What there is to show of these runs, their fit and its study."""
    held = None if study is None else held_out(study)
    drawn = figures(table, fit, study, held)
    tables = [] if fit is None else study_tables(fit, study)
    sections = (
        Section(
            id_,
            title if fit is not None else "Figures",
            tuple(figure for figure in drawn if figure.section == id_),
            tuple(table for table in tables if table.section == id_),
        )
        for id_, title in SECTIONS.items()
    )
    skipped = {} if study is None else study.skipped
    return Content(
        table=table,
        fit=fit,
        summary=None if fit is None else summarise(table, fit, study),
        warnings=() if fit is None else fit.warnings if study is None else study.warnings,
        sections=tuple(section for section in sections if section.figures or section.tables),
        skipped=tuple((_analysis(name), reason.removeprefix(f"{table.source}: ")) for name, reason in skipped.items()),
        texts=None if fit is None else _texts(fit, study, held),
    )


def _texts(fit: Fit, study: Study | None, held: HeldOut | None) -> Texts:
    marked = paragraph(fit, study, held)
    files = {
        "estimates.tex": latex_table(fit, study),
        "methods.tex": as_latex(marked),
        "references.bib": bibliography(marked),
    }
    return Texts(as_text(marked), files)


def _analysis(name: str) -> str:
    return ANALYSES.get(name, f"{name[:1].upper()}{name[1:]}".replace("_", " "))
