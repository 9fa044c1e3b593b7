"""A ledger's rows as one file, whole or not there: JSON lines, or Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ...train.files import atomic_file
from .schema import AS_JSON
from .store import Ledger, LedgerError

FORMATS = (".jsonl", ".parquet")


def export(ledger: Ledger, path: Path) -> None:
    """Writes every row, by N, D and seed, in the format of the file's name; replaces the file in one step.

    JSON lines hold the spec and the nested columns as JSON. Parquet holds the spec as text, the curve as a list of
    {tokens, loss, se}, and other nested columns as text.

    Raises:
        LedgerError: the name ends in neither .jsonl nor .parquet.
    """
    if path.suffix not in FORMATS:
        raise LedgerError(f"{path}: the name of an export ends in {' or '.join(FORMATS)}")
    with atomic_file(path) as file:
        if path.suffix == ".parquet":
            _write_parquet(ledger, file)
        else:
            file.writelines(f"{line}\n".encode() for line in json_lines(ledger))


def json_lines(ledger: Ledger) -> Iterator[str]:
    """Each row as one line of JSON."""
    for row in ledger.rows():
        yield json.dumps(_nested(row))


def _nested(row: dict[str, Any]) -> dict[str, Any]:
    return row | {name: json.loads(row[name]) for name in ("spec", *AS_JSON) if row[name]}


def _write_parquet(ledger: Ledger, file: BinaryIO) -> None:
    import pandas as pd

    rows = ledger.rows()
    for row in rows:
        points = json.loads(row["curve"]) if row["curve"] else []
        row["curve"] = [dict(zip(("tokens", "loss", "se"), point, strict=True)) for point in points]
    pd.DataFrame(rows).to_parquet(file, index=False)
