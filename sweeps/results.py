"""What a sweep folder yields: the export, the fitted law and the report, all from its ledger."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ..analysis.fit import Fit, FitError, fit
from ..analysis.report import write_report
from ..analysis.study import study
from ..analysis.tables.table import RunTable, TableError, read_table
from ..train.corpus.build import open_corpus
from ..train.corpus.spec import CorpusError
from ..train.device import environment
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


def analyse(out: Path, corpora: Path | None, bootstrap: int = 1000) -> Results:
    """Writes runs.jsonl, fit.json and report.html from the ledger in `out`, each in one step.

    A ledger with too few finished runs for a law still gets its export and a report that says so; an older fit.json
    is removed then, because it would no longer be about these runs.

    Raises:
        LedgerError: no sweep in `out`.
    """
    ledger = open_ledger(out)
    try:
        ledger.export_jsonl(out / "runs.jsonl")
        runs = pd.DataFrame(ledger.rows())
    finally:
        ledger.close()
    table, fitted, why = None, None, None
    try:
        table = read_table(out)
        fitted = fit(table, bootstrap=bootstrap)
    except (FitError, TableError) as error:
        why = str(error)
    if fitted is not None:
        write_json(out / "fit.json", fitted.to_json())
    else:
        (out / "fit.json").unlink(missing_ok=True)
    report = None
    if table is not None:
        report = write_report(
            out / "report.html",
            title=f"Scaling law of {out.name}",
            table=table,
            fit=fitted,
            manifest=_manifest(runs, corpora),
            environment=_environment(runs),
            runs=runs,
            study=None if fitted is None else study(table, fitted),
        )
    return Results(table, fitted, why, report)


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
