"""Every figure of the report, in the order of its sections."""

from __future__ import annotations

from ..fit import Fit
from ..study import Study
from ..tables.table import RunTable
from .chart import Figure as Figure
from .fit_figures import fit_figures
from .heldout import HeldOut
from .method_figures import envelope_figures, isoflop_figures, metric_figures
from .runs import Runs
from .study_figures import held_out_figures, profile_figure


def figures(table: RunTable, fit: Fit | None, study: Study | None = None, held: HeldOut | None = None) -> list[Figure]:
    """The figures that the data allow: without a fit those of the runs themselves, without a study those of the fit.

    `held` is `held_out(study)`, which takes a second.
    """
    if len(table.N) == 0:
        return []
    runs = Runs(table)
    made = fit_figures(runs, fit)
    if study is None:
        return made
    width = "half" if len(study.profiles) % 3 else "third"
    made += [profile_figure(profile, width) for profile in study.profiles]
    if held is not None:
        made += held_out_figures(runs, held)
    if study.isoflop is not None:
        made += isoflop_figures(runs, study.isoflop, study.fit)
    if study.envelope is not None:
        made += envelope_figures(table, study.envelope)
    if study.metrics is not None:
        made += metric_figures(study.metrics)
    return made
