"""Files of runs as data frames: CSV and TSV, Parquet, JSONL, JSON, and SQLite. Cells are given as they stand; nothing is evaluated."""

from __future__ import annotations

import codecs
import csv
import json
import re
import sqlite3
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pandas as pd
import pyarrow as pa
from pyarrow import parquet

FORMATS = "a .csv, .tsv, .parquet, .jsonl or .json file, a sweep folder (with ledger.sqlite) or a ledger (.sqlite, .db)"
DELIMITERS = (",", ";", "\t", "|")
SAMPLE = 1 << 16  # bytes from which encoding and delimiter are told
COMPRESSED = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip (or Excel)", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2"}
LONGEST_NAME = 40


class TableError(ValueError):
    """The table cannot be used; the message is one line that names the file and what is allowed."""

    exit_code = 2


def read_frame(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Every row and column of a table file, and what had to be assumed to read it, a plain line each. Raises TableError."""
    if path.is_dir():
        if not (path / "ledger.sqlite").is_file():
            raise TableError(f"{path}: the folder holds no ledger.sqlite; a table is {FORMATS}")
        path = path / "ledger.sqlite"
    if not path.is_file():
        raise TableError(f"{path}: no such file; a table is {FORMATS}")
    kind = path.suffix.lower()
    if kind not in _READERS:
        raise TableError(f"{path}: unknown kind of table {kind!r}; a table is {FORMATS}")
    try:
        return _READERS[kind](path)
    except TableError:
        raise
    except RecursionError as error:
        raise TableError(f"{path}: cannot be read as {kind[1:]}: it is nested too deeply") from error
    except (ValueError, OSError, NotImplementedError, sqlite3.Error, csv.Error, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise TableError(f"{path}: cannot be read as {kind[1:]}: {reason}") from error


def checked(frame: pd.DataFrame, source: str) -> pd.DataFrame:
    """The frame with its column names as text and its rows numbered from 0. Raises TableError without rows or with a name given twice."""
    if frame.empty:
        raise TableError(f"{source}: the table holds no rows")
    names = [str(name).strip() for name in frame.columns]
    _unique(names, source)
    return frame.set_axis(names, axis="columns").reset_index(drop=True)


def shown(name: object) -> str:
    """A name out of the table as it may stand in a line of text: printable, and short."""
    text = "".join(letter if letter.isprintable() else "?" for letter in str(name)[: LONGEST_NAME + 1])
    return text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 1] + "…"


def as_text(column: pd.Series) -> pd.Series:
    """The cells as text, those without a value still without; bytes and lists as Python writes them."""
    return (column.map(str, na_action="ignore") if column.dtype == object else column).astype("string")


def _unique(names: Iterable[str], source: str) -> None:
    """Two columns of one name leave open which is meant; columns without a name do not matter."""
    doubled = [shown(name) for name, count in Counter(names).items() if count > 1 and name]
    if doubled:
        raise TableError(f"{source}: the column {', '.join(doubled)} stands there more than once; rename all but one")


def _read_csv(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Delimiter from the header, encoding from the bytes, decimal comma only where the delimiter is a semicolon and no point is used."""
    notes: list[str] = []
    with path.open("rb") as file:
        sample = file.read(SAMPLE)
    for magic, name in COMPRESSED.items():
        if sample.startswith(magic):
            raise TableError(f"{path}: the file is compressed ({name}); unpack it first: a table is {FORMATS}")
    encoding = _encoding(path, sample)
    if encoding == "latin-1":
        notes.append("the file is not UTF-8; it was read as Latin-1")
    text = sample.decode(encoding, errors="ignore")
    if "\0" in text:
        raise TableError(f"{path}: cannot be read as {path.suffix[1:]}: it is a binary file")
    header = next((line for line in text.splitlines() if line.strip()), "")
    counts = {mark: len(next(csv.reader([header], delimiter=mark), [])) for mark in DELIMITERS}
    mark = max(DELIMITERS, key=lambda mark: counts[mark])
    if mark != {".tsv": "\t"}.get(path.suffix.lower(), ",") and counts[mark] > 1:
        notes.append(f"the delimiter is {mark!r}")
    decimal = "," if mark == ";" and re.search(r"\d,\d", text) and not re.search(r"\d\.\d", text) else "."
    if decimal == ",":
        notes.append("the decimal mark is ','")
    _unique((name.strip() for name in next(csv.reader([header], delimiter=mark), [])), str(path))
    with warnings.catch_warnings():
        # Without this a row with more fields than the header shifts every column, or loses its end, in silence.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            frame = pd.read_csv(
                path,
                sep=mark,
                encoding=encoding,
                decimal=decimal,
                index_col=False,
                skipinitialspace=True,
                low_memory=False,
            )
        except pd.errors.ParserWarning as error:
            raise ValueError("its rows have more fields than its header") from error
    return frame, notes


def _encoding(path: Path, sample: bytes) -> str:
    if sample.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                decoder.decode(block)
            decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8-sig"


def _read_parquet(path: Path) -> tuple[pd.DataFrame, list[str]]:
    table = parquet.read_table(path)
    table.validate(full=True)  # otherwise text that is not UTF-8 fails later, wherever it is first looked at
    return table.to_pandas(), []


def _read_jsonl(path: Path) -> tuple[pd.DataFrame, list[str]]:
    rows: list[dict[str, object]] = []
    with path.open(encoding="utf-8-sig") as lines:
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
    return pd.DataFrame.from_records(rows), []


def _read_json(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """A list of objects, or an object of lists of one length (or of objects, as pandas writes)."""
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    if isinstance(content, list) and all(isinstance(row, dict) for row in content):
        return pd.DataFrame.from_records(content), []
    if isinstance(content, dict) and all(isinstance(column, (list, dict)) for column in content.values()):
        return pd.DataFrame(content), []
    raise TableError(f"{path}: the JSON is neither a list of objects nor an object of lists")


def _read_sqlite(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Table `runs`, or the only table; read-only, because the driver may be writing to it at the same time."""
    uri = f"file:{quote(str(path.absolute()))}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=10.0)) as connection:
        found = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        if "runs" not in found and len(found) != 1:
            raise TableError(f"{path}: there is no table `runs`; the file has {', '.join(map(shown, found)) or 'none'}")
        table = "runs" if "runs" in found else found[0]
        cursor = connection.execute('SELECT * FROM "{}"'.format(table.replace('"', '""')))
        columns = [column[0] for column in cursor.description]
        return pd.DataFrame.from_records(cursor.fetchall(), columns=columns), []


_READERS: Mapping[str, Callable[[Path], tuple[pd.DataFrame, list[str]]]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".sqlite": _read_sqlite,
    ".db": _read_sqlite,
}
