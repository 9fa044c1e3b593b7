"""The ledger: one SQLite row per run, written by the driver alone, complete after every commit."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...train.record import RunRecord

FILE = "ledger.sqlite"
SCHEMA_VERSION = 2

# Column -> SQLite type. The key is a hash of the resolved RunSpec.
COLUMNS = {
    "key": "TEXT PRIMARY KEY",
    "state": "TEXT NOT NULL CHECK (state IN ('planned', 'running', 'done', 'diverged', 'failed'))",
    "N_total": "INTEGER NOT NULL",
    "N_non_embedding": "INTEGER NOT NULL",
    "N_matmul": "INTEGER NOT NULL",
    "D": "INTEGER NOT NULL",
    "C_6nd": "REAL NOT NULL",
    "C_exact": "REAL NOT NULL",
    "test_loss": "REAL",
    "test_loss_se": "REAL",
    "bits_per_byte": "REAL",
    "loss_by_source": "TEXT",
    "accuracy": "REAL",
    "exact_match": "TEXT",
    "curve": "TEXT",
    "test_loss_clean": "REAL",
    "test_loss_dirty": "REAL",
    "lr": "REAL NOT NULL",
    "batch_tokens": "INTEGER NOT NULL",
    "seed": "INTEGER NOT NULL",
    "tokens_per_s": "REAL",
    "wall_s": "REAL",
    "corpus": "TEXT NOT NULL",
    "spec": "TEXT NOT NULL",
    "sixnd_version": "TEXT",
    "torch_version": "TEXT",
    "device": "TEXT",
    "n_layers": "INTEGER NOT NULL",
    "d_model": "INTEGER NOT NULL",
    "attempts": "INTEGER NOT NULL DEFAULT 0",
    "error": "TEXT",
    "finished_at": "TEXT",
}
ADDED = {
    2: ("test_loss_clean", "test_loss_dirty", "accuracy", "exact_match", "curve")
}  # columns by the schema that brought them
AS_JSON = ("loss_by_source", "exact_match", "curve")
ORDER = "ORDER BY N_total, D, seed, key"


class LedgerError(ValueError):
    """A ledger that cannot be used; its message is one line."""

    exit_code = 2


class Ledger:
    """Rows of a sweep. WAL and synchronous=FULL: a row that was acknowledged survives kill -9 and power loss."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.connection = sqlite3.connect(path, timeout=30)
            self.connection.row_factory = sqlite3.Row
            self.connection.execute("PRAGMA journal_mode=WAL")
            self.connection.execute("PRAGMA synchronous=FULL")
            with self.connection:
                columns = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
                self.connection.execute(f"CREATE TABLE IF NOT EXISTS runs ({columns})")
                self.connection.execute("CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
                if self.meta("schema") is None:  # a reader of a ledger in use must not ask for the write lock
                    self.connection.execute("INSERT OR IGNORE INTO meta VALUES ('schema', ?)", (str(SCHEMA_VERSION),))
                self._migrate()
        except sqlite3.Error as error:
            raise LedgerError(f"{path}: cannot be used as a ledger: {error}") from None
        if self.meta("schema") != str(SCHEMA_VERSION):
            raise LedgerError(f"{path}: schema {self.meta('schema')}, and this sixnd writes {SCHEMA_VERSION}")

    def _migrate(self) -> None:
        """Brings a ledger of an older schema up to this one; its rows keep what they have and lack the new columns."""
        found = self.meta("schema") or ""
        if found.isdecimal() and int(found) < SCHEMA_VERSION:
            for version in range(int(found) + 1, SCHEMA_VERSION + 1):
                for column in ADDED[version]:
                    self.connection.execute(f"ALTER TABLE runs ADD COLUMN {column} {COLUMNS[column]}")
            self.connection.execute("UPDATE meta SET value = ? WHERE name = 'schema'", (str(SCHEMA_VERSION),))

    def close(self) -> None:
        self.connection.close()

    def meta(self, name: str) -> str | None:
        row = self.connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return row["value"] if row else None

    def set_meta(self, name: str, value: str) -> None:
        if self.meta(name) == value:  # a finished sweep's file is not touched
            return
        with self.connection:
            self.connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def plan(self, rows: Iterable[Mapping[str, object]]) -> None:
        """Makes the ledger's unfinished rows those of the plan: finished ones stay, whatever else was planned goes."""
        with self.connection:
            self.connection.execute("DELETE FROM runs WHERE state NOT IN ('done', 'diverged')")
            for row in rows:
                names = ", ".join(row)
                marks = ", ".join("?" for _ in row)
                self.connection.execute(
                    f"INSERT INTO runs ({names}) VALUES ({marks}) ON CONFLICT (key) DO NOTHING", tuple(row.values())
                )

    def start(self, key: str) -> None:
        """Marks a run as handed to a worker, once more."""
        with self.connection:
            self.connection.execute(
                "UPDATE runs SET state = 'running', attempts = attempts + 1 WHERE key = ? AND state NOT IN ('done', 'diverged')",
                (key,),
            )

    def finish(self, record: RunRecord) -> None:
        """Commits a finished run; a second record of the same run changes nothing."""
        values = record.model_dump(mode="json")
        values |= {name: json.dumps(values[name], sort_keys=True) for name in AS_JSON}
        assignments = ", ".join(f"{name} = :{name}" for name in values if name != "key")
        with self.connection:
            self.connection.execute(
                f"UPDATE runs SET {assignments} WHERE key = :key AND state NOT IN ('done', 'diverged')", values
            )

    def back_to(self, state: str, key: str, error: str | None = None) -> None:
        """Takes a run that did not finish to `planned` (to be tried again) or `failed`."""
        with self.connection:
            self.connection.execute(
                "UPDATE runs SET state = ?, error = ? WHERE key = ? AND state NOT IN ('done', 'diverged')",
                (state, error, key),
            )

    def rows(self) -> list[dict[str, Any]]:
        """Every run, by N, D and seed."""
        return [dict(row) for row in self.connection.execute(f"SELECT * FROM runs {ORDER}")]

    def finished_keys(self) -> frozenset[str]:
        rows = self.connection.execute("SELECT key FROM runs WHERE state IN ('done', 'diverged')")
        return frozenset(row["key"] for row in rows)

    def export_jsonl(self, path: Path) -> None:
        """Writes every row as one JSON line, sorted, replacing the file in one step."""
        temporary = path.with_suffix(".tmp")
        with temporary.open("w", encoding="utf-8") as file:
            for row in self.rows():
                row["spec"] = json.loads(row["spec"])
                row |= {name: json.loads(row[name]) for name in AS_JSON if row[name]}
                file.write(json.dumps(row, sort_keys=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def open_ledger(folder: Path) -> Ledger:
    """The ledger of a sweep folder that exists.

    Raises:
        LedgerError: the folder holds none.
    """
    if not (folder / FILE).is_file():
        raise LedgerError(f"{folder}: no sweep here ({FILE} is missing); start one with `sixnd run`")
    return Ledger(folder / FILE)
