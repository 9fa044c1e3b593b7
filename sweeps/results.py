"""What a sweep folder yields: the export, the fitted law and the report, all from its ledger.

`python -m sixnd.sweeps.results OUT CORPORA N_RUNS` writes the report of a sweep that is still running.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ..analysis.fit import Fit, FitError, fit
from ..analysis.report import write_report
from ..analysis.study import Study, study
from ..analysis.tables.table import RunTable, TableError, read_table
from ..train.corpus.build import open_corpus
from ..train.corpus.spec import CorpusError
from ..train.machine import environment
from .ledger.export import export
from .ledger.schema import FINAL
from .ledger.store import open_ledger
from .receipt import receipt_facts
from .show import write_json


@dataclass(frozen=True)
class Results:
    """What `analyse` found and where it put it."""

    table: RunTable | None
    fit: Fit | None
    why_no_fit: str | None
    report: Path | None  # None while no run has finished


LIVE_BOOTSTRAP = 200  # resamples of a report whose sweep is still running
TUNING_PAGE = "tuning/report.html"


def analyse(out: Path, corpora: Path | None, bootstrap: int = 1000) -> Results:
    """Writes runs.jsonl, runs.parquet, fit.json and report.html from the ledger in `out`, each in one step.

    A ledger with too few finished runs for a law still gets its export and a report that says so; an older fit.json
    is removed then, because it would no longer be about these runs.

    Raises:
        LedgerError: no sweep in `out`.
    """
    ledger = open_ledger(out)
    try:
        for name in ("runs.jsonl", "runs.parquet"):
            export(ledger, out / name)
        runs = pd.DataFrame(ledger.rows())
    finally:
        ledger.close()
    table, fitted, why = _law(out, bootstrap)
    if fitted is not None:
        write_json(out / "fit.json", fitted.to_json())
    else:
        (out / "fit.json").unlink(missing_ok=True)
    if table is None:
        return Results(None, None, why, None)
    found = None if fitted is None else study(table, fitted)
    return Results(table, fitted, why, _write(out, corpora, runs, table, fitted, found))


def analyse_running(out: Path, corpora: Path, n_runs: int) -> None:
    """Writes report.html of a sweep that still runs: no study, few resamples, and a page that reloads itself."""
    ledger = open_ledger(out)
    try:
        runs = pd.DataFrame(ledger.rows())
    finally:
        ledger.close()
    table, fitted, _ = _law(out, LIVE_BOOTSTRAP)
    if table is not None:
        n_ended = int(runs["state"].isin(FINAL).sum())
        _write(out, corpora, runs, table, fitted, None, in_progress=f"{n_ended} of {n_runs} runs")


def _write(
    out: Path,
    corpora: Path | None,
    runs: pd.DataFrame,
    table: RunTable,
    fitted: Fit | None,
    found: Study | None,
    in_progress: str | None = None,
) -> Path:
    return write_report(
        out / "report.html",
        title=f"Scaling law of {out.name}",
        table=table,
        fit=fitted,
        manifest=_manifest(runs, corpora),
        environment=_environment(runs),
        runs=runs,
        study=found,
        in_progress=in_progress,
        pages={"How learning rate and batch were tuned": TUNING_PAGE} if (out / TUNING_PAGE).exists() else None,
    )


def _law(out: Path, bootstrap: int) -> tuple[RunTable | None, Fit | None, str | None]:
    """The table of finished runs and its fit, or why there is none."""
    table = None
    try:
        table = read_table(out)
        return table, fit(table, bootstrap=bootstrap), None
    except (FitError, TableError) as error:
        return table, None, str(error)


def _manifest(runs: pd.DataFrame, corpora: Path | None) -> dict[str, object] | None:
    hashes = sorted(set(runs["corpus"]))
    try:
        return receipt_facts(open_corpus(hashes[0], corpora).manifest) if hashes else None
    except CorpusError:
        return None  # the report is about the runs; their corpus may be on another machine


def _environment(runs: pd.DataFrame) -> dict[str, str]:
    """Versions and devices that the runs were trained with, and the machine that writes the report."""
    trained = {
        "runs trained on": "; ".join(sorted(runs["device"].dropna().unique())),
        "with sixnd": ", ".join(sorted(runs["sixnd_version"].dropna().unique())),
        "with torch": ", ".join(sorted(runs["torch_version"].dropna().unique())),
    }
    return trained | {f"report: {name}": value for name, value in environment().items()}


if __name__ == "__main__":
    os.nice(19)  # the workers come first
    analyse_running(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
