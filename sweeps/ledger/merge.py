"""One sweep that ran in two places: the finished runs of one ledger taken into another."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from ...train.files import atomic_file
from .schema import ATTEMPTS, COLUMNS, FINAL
from .settings import first_difference
from .store import FILE, Ledger, LedgerError

DOCUMENTS = "documents"  # losses of the held-out documents, beside the ledger


@dataclass(frozen=True)
class Merged:
    """What a merge took, and where the two ledgers disagree."""

    taken: int  # runs that were not finished in the first
    known: int  # runs finished in both
    differing: int  # of those, with another test loss: the first ledger's stay
    largest_difference: float  # nats per token


def merge(into: Path, other: Path, dry_run: bool = False) -> Merged:
    """Takes every finished run of the sweep folder `other`, and its document losses, into the sweep folder `into`.

    Merging again changes nothing. `other` is only read. The caller holds the driver's lock of `into`.

    Raises:
        LedgerError: a folder holds no ledger, or the two were trained with other settings.
    """
    for folder in (into, other):
        if not (folder / FILE).is_file():
            raise LedgerError(f"{folder}: no sweep here ({FILE} is missing)")
    ours, theirs = Ledger(into / FILE), Ledger(other / FILE, read_only=True)
    try:
        settings = [json.loads(ledger.meta("settings") or "{}") for ledger in (ours, theirs)]
        if difference := first_difference(*settings):
            key, here, there = difference
            raise LedgerError(f"{other}: its runs were trained with {key} = {there!r}, those of {into} with {here!r}")
        mine = {row["key"]: row for row in ours.rows()}
        finished = [row for row in theirs.rows() if row["state"] in FINAL]
        new = [row for row in finished if row["key"] not in mine or mine[row["key"]]["state"] not in FINAL]
        both = [
            (mine[row["key"]], row) for row in finished if row["key"] in mine and mine[row["key"]]["state"] in FINAL
        ]
        apart = [
            abs(a["test_loss"] - b["test_loss"])
            if a["test_loss"] is not None and b["test_loss"] is not None
            else float("inf")
            for a, b in both
            if a["test_loss"] != b["test_loss"]
        ]
        if new and not dry_run:
            keys = {row["key"] for row in new}
            _copy_documents(into, other, keys)  # first: a row that is there has its documents
            _take(ours, new, [attempt for attempt in theirs.attempts() if attempt["key"] in keys])
        return Merged(len(new), len(both), len(apart), max(apart, default=0.0))
    finally:
        ours.close()
        theirs.close()


def _take(ledger: Ledger, rows: list[dict[str, object]], attempts: list[dict[str, object]]) -> None:
    with ledger.connection as connection:
        keys = [(row["key"],) for row in rows]
        connection.executemany("DELETE FROM runs WHERE key = ?", keys)  # planned here, finished there
        connection.executemany("DELETE FROM attempts WHERE key = ?", keys)
        for table, columns, values in (("runs", COLUMNS, rows), ("attempts", ATTEMPTS, attempts)):
            marks = ", ".join(f":{name}" for name in columns)
            connection.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", values)


def _copy_documents(into: Path, other: Path, keys: set[str]) -> None:
    for path in sorted((other / DOCUMENTS).glob("*.npz")):
        if path.stem in keys:
            with path.open("rb") as source, atomic_file(into / DOCUMENTS / path.name) as target:
                shutil.copyfileobj(source, target)
