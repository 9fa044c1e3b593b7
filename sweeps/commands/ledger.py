"""Ledgers as files: `sixnd ledger export`, `sixnd ledger merge`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from .corpus import console

ledger_app = App(name="ledger", help="Export a sweep's ledger, or merge those of a sweep that ran in two places.")


@ledger_app.command
def export(folder: Path, *, to: Annotated[str, Parameter(allow_leading_hyphen=True)] = "-") -> None:
    """Write every run of a ledger as JSON lines or Parquet, sorted by N, D and seed.

    Example: `sixnd ledger export sweeps-out/demo --to runs.parquet`

    Parameters
    ----------
    folder
        The sweep's folder.
    to
        A file that ends in .jsonl or .parquet; - writes JSON lines to the terminal.
    """
    from ..ledger.export import export as write
    from ..ledger.export import json_lines
    from ..ledger.store import open_ledger
    from ..show import where_is

    ledger = open_ledger(folder)
    try:
        if to == "-":
            sys.stdout.writelines(f"{line}\n" for line in json_lines(ledger))
        else:
            write(ledger, Path(to))
            console.print(f"{where_is(Path(to))}: {sum(ledger.by_state().values()):,} runs")
    finally:
        ledger.close()


@ledger_app.command
def merge(
    into: Path, other: Path, *, dry_run: Annotated[bool, Parameter(name="--dry-run", negative=())] = False
) -> None:
    """Take the finished runs of one sweep folder into another; doing it again changes nothing.

    Where both have finished a run, the first folder's stays. Example: `sixnd ledger merge sweeps-out/a sweeps-out/b`

    Parameters
    ----------
    into
        The folder that gets the runs.
    other
        The folder they come from; it is only read.
    dry_run
        Say what would be taken, and change nothing.
    """
    from ..ledger.merge import merge as take
    from ..ledger.store import FILE, LedgerError
    from ..lock import only_driver

    if not (into / FILE).is_file():
        raise LedgerError(f"{into}: no sweep here ({FILE} is missing)")
    with only_driver(into):
        merged = take(into, other, dry_run)
    console.print(
        f"{into}: {merged.taken} runs {'would be taken' if dry_run else 'taken'} from {other}; {merged.known} were finished in both"
        + (
            f", {merged.differing} of them with another test loss (by up to {merged.largest_difference:.4f} nats): those of {into} stay"
            if merged.differing
            else ", with equal test losses"
            if merged.known
            else ""
        ),
        markup=False,
    )
