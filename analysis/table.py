"""Run tables: one row per finished run, from a CSV, Parquet or JSONL file or from a sweep's ledger."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from .where import WhereError, select_rows

FORMATS = "a .csv, .parquet or .jsonl file, a sweep folder (with ledger.sqlite) or a ledger (.sqlite, .db)"
LEDGER_COLUMNS = {"N": "N_total", "loss": "test_loss"}


class TableError(ValueError):
    """The table cannot be used; the message is one line that names the file and what is allowed."""

    exit_code = 2


@dataclass(frozen=True)
class RunTable:
    """Runs to fit a law on. `N` parameters, `D` training tokens, `loss` nats per token: float64 arrays of shape (n,), all positive."""

    N: npt.NDArray[np.float64]
    D: npt.NDArray[np.float64]
    loss: npt.NDArray[np.float64]
    frame: pd.DataFrame  # every column of the kept rows, in the same order
    source: str  # the path as given
    n_col: str  # the columns really used, e.g. N_total in a ledger
    d_col: str
    loss_col: str
    set_aside: tuple[str, ...] = ()  # one plain line per reason, e.g. "2 runs set aside: state is diverged"


def read_table(
    path: str | Path, *, where: str | None = None, n_col: str = "N", d_col: str = "D", loss_col: str = "loss"
) -> RunTable:
    """The runs of a table that can be fitted, with what was set aside and why.

    In a ledger or its export (columns N_total, test_loss, state) N stands for N_total (tied embeddings: every parameter multiplies) and
    loss for test_loss, rows are sorted by key, and runs that are not done are set aside; so are rows without a value. Anything else
    that is not a positive finite number is refused. Raises TableError.
    """
    source = str(path)
    frame = _read(Path(path))
    if where is not None:
        try:
            chosen = select_rows(frame, where)
        except WhereError as error:
            raise TableError(f"--where: {error}") from error
        if not chosen.any():
            raise TableError(f"{source}: no row of {len(frame)} satisfies --where {where!r}")
        frame = frame[chosen]
    columns = [_column(frame, name, source) for name in (n_col, d_col, loss_col)]
    frame, set_aside = _finished(frame, source)
    values = [_numbers(frame[column], column, source) for column in columns]
    present = np.logical_and.reduce([~np.isnan(value) for value in values])
    missing = int((~present).sum())
    if missing:
        set_aside.append(f"{missing} {_runs(missing)} set aside: no value in {', '.join(columns[:2])} or {columns[2]}")
    if not present.any():
        raise TableError(f"{source}: no run is left ({'; '.join(set_aside) or 'the table is empty'})")
    N, D, loss = (value[present] for value in values)
    frame = frame[present].reset_index(drop=True)
    return RunTable(N, D, loss, frame, source, columns[0], columns[1], columns[2], tuple(set_aside))


def _read(path: Path) -> pd.DataFrame:
    if path.is_dir():
        if not (path / "ledger.sqlite").is_file():
            raise TableError(f"{path}: the folder holds no ledger.sqlite; a table is {FORMATS}")
        path = path / "ledger.sqlite"
    if not path.is_file():
        raise TableError(f"{path}: no such file; a table is {FORMATS}")
    try:
        match path.suffix.lower():
            case ".csv":
                frame = pd.read_csv(path, low_memory=False)
            case ".parquet":
                frame = pd.read_parquet(path)
            case ".jsonl":
                frame = _read_jsonl(path)
            case ".sqlite" | ".db":
                frame = _read_ledger(path)
            case suffix:
                raise TableError(f"{path}: unknown kind of table {suffix!r}; a table is {FORMATS}")
    except TableError:
        raise
    except (ValueError, OSError, NotImplementedError, sqlite3.Error, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise TableError(f"{path}: cannot be read as {path.suffix.lower()[1:]}: {reason}") from error
    if frame.empty:
        raise TableError(f"{path}: the table holds no rows")
    frame.columns = frame.columns.map(str)
    return frame.reset_index(drop=True)


def _read_jsonl(path: Path) -> pd.DataFrame:
    rows: list[dict[str, object]] = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise TableError(f"{path}: line {number} is not JSON") from error
            if not isinstance(row, dict):
                raise TableError(f"{path}: line {number} is not a JSON object")
            rows.append(row)
    return pd.DataFrame.from_records(rows)


def _read_ledger(path: Path) -> pd.DataFrame:
    """Table `runs`, read-only: the driver may be writing to it at the same time."""
    uri = f"file:{quote(str(path.absolute()))}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=10.0)) as connection:
        cursor = connection.execute("SELECT * FROM runs")
        return pd.DataFrame.from_records(cursor.fetchall(), columns=[column[0] for column in cursor.description])


def _is_ledger(frame: pd.DataFrame) -> bool:
    return {"N_total", "test_loss", "state"} <= set(frame.columns)


def _column(frame: pd.DataFrame, name: str, source: str) -> str:
    if name in frame.columns:
        return name
    stand_in = LEDGER_COLUMNS.get(name)
    if stand_in is not None and stand_in in frame.columns and _is_ledger(frame):
        return stand_in
    shown = ", ".join(frame.columns[:40])
    raise TableError(f"{source}: there is no column {name!r}; the table has {shown} (--n-col, --d-col, --loss-col)")


def _finished(frame: pd.DataFrame, source: str) -> tuple[pd.DataFrame, list[str]]:
    """A ledger's rows in the order of their key, so that a resumed sweep fits to the same numbers, without those not done."""
    if not _is_ledger(frame):
        return frame, []
    if "key" in frame.columns:
        frame = frame.sort_values("key", kind="stable", key=lambda key: key.astype("string"))
    state = frame["state"].astype("string").fillna("unknown")
    counts = state[state != "done"].value_counts().sort_index()
    set_aside = [f"{count} {_runs(count)} set aside: state is {name}" for name, count in counts.items()]
    if not (state == "done").any():
        raise TableError(f"{source}: no run is done yet ({'; '.join(set_aside)})")
    return frame[(state == "done").to_numpy()], set_aside


def _numbers(column: pd.Series, name: str, source: str) -> npt.NDArray[np.float64]:
    """The column as floats (n,), NaN where the table has no value; anything but a positive finite number is refused."""
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    given = column.notna().to_numpy()
    wrong = given & ~(np.isfinite(numbers) & (numbers > 0))
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        value = repr(
            column.iloc[first] if not isinstance(column.iloc[first], np.generic) else column.iloc[first].item()
        )
        more = f" (and {wrong.sum() - 1} more)" if wrong.sum() > 1 else ""
        raise TableError(
            f"{source}: row {int(column.index[first]) + 1}, column {name}: {value[:60]} is not a positive number{more}"
        )
    return numbers


def _runs(count: int) -> str:
    return "run" if count == 1 else "runs"
