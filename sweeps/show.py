"""Small things that every command shows or writes; imports nothing heavy, so that a command starts at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table


def aloud(line: str) -> None:
    """Prints at once, from whatever process."""
    print(line, flush=True)


def unheard(_: str) -> None:
    """Prints nothing."""


def short(n: float) -> str:
    """442k, 4.0M, 1.2B."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if n >= 0.9995 * size:
            return f"{n / size:.3g}{unit}"
    return f"{n:.0f}"


def bytes_in_words(n: float) -> str:
    """330MB, 5.9GB."""
    return short(n).replace("B", "G") + "B"


def seconds_in_words(seconds: float) -> str:
    """12 s, 3 min, 1.5 h."""
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def table_with(*headings: str) -> Table:
    """An empty table of text and then numbers, which stand to the right."""
    table = Table(*headings, box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def table_of(rows: Sequence[Mapping[str, str | int | float]]) -> Table:
    """Rows of the same keys as a table, numbers to the right."""
    table = Table(*rows[0], box=None, pad_edge=False)
    for column, value in zip(table.columns, rows[0].values(), strict=True):
        column.justify = "left" if isinstance(value, str) else "right"
    for row in rows:
        table.add_row(*(value if isinstance(value, str) else f"{value:,}" for value in row.values()))
    return table


def where_is(path: Path) -> str:
    """The path as short as it can be said from here."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def write_json(path: Path, document: object) -> None:
    """Writes JSON in one step; NaN is refused, because JSON has none."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)
