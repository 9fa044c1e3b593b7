"""The ledger: one SQLite row per run, written by the driver alone, complete after every commit."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...train.record import CurvePoint, RunRecord
from .filesystem import network_filesystem
from .schema import AS_JSON, IS_FINAL, SCHEMA_VERSION, create, migrate

FILE = "ledger.sqlite"
ORDER = "ORDER BY N_total, D, seed, key"


class LedgerError(ValueError):
    """A ledger that cannot be used; its message is one line."""

    exit_code = 2


class LedgerFull(RuntimeError):
    """A commit that the disk had no room for; the message says what is safe."""

    exit_code = 1


class Ledger:
    """Rows of a sweep. WAL and synchronous=FULL: a row that was acknowledged survives kill -9 and power loss.

    On a network filesystem, where WAL does not work, SQLite's rollback journal takes its place; `network` names the type.
    """

    def __init__(self, path: Path, read_only: bool = False) -> None:
        self.path, self.network = path, network_filesystem(path)
        try:
            if read_only:
                self.connection = open_read_only(path)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                self.connection = sqlite3.connect(path, timeout=30)
            self.connection.row_factory = sqlite3.Row
            if not read_only:
                self._prepare()
            found = self.meta("schema")
        except sqlite3.Error as error:
            where = path if path.exists() else path.parent
            fixed = not read_only and not (os.access(where, os.W_OK) and os.access(path.parent, os.W_OK))
            why = "it or its folder cannot be written" if fixed else error
            raise LedgerError(f"{path}: cannot be used as a ledger: {why}") from None
        except OSError as error:
            raise LedgerError(f"{path}: cannot be used as a ledger: {error.strerror}") from None
        if found != str(SCHEMA_VERSION):
            raise LedgerError(f"{path}: schema {found}, and this sixnd writes {SCHEMA_VERSION}")

    def _prepare(self) -> None:
        self.connection.execute(f"PRAGMA journal_mode={'DELETE' if self.network else 'WAL'}")
        self.connection.execute("PRAGMA synchronous=FULL")
        tables = {row["name"] for row in self.connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        found = self.meta("schema") if "meta" in tables else None
        if found == str(SCHEMA_VERSION) and "attempts" in tables:
            return  # a reader of a ledger in use must not ask for the write lock
        with self.connection:
            self.connection.execute("BEGIN IMMEDIATE")
            if found is None:
                create(self.connection)
            self.connection.execute("INSERT OR IGNORE INTO meta VALUES ('schema', ?)", (str(SCHEMA_VERSION),))
            found = self.meta("schema") or ""  # another process may have been quicker
            if found.isdecimal() and int(found) < SCHEMA_VERSION:
                migrate(self.connection, int(found))

    def close(self) -> None:
        self.connection.close()

    @contextmanager
    def _commit(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it or nothing."""
        try:
            with self.connection:
                yield self.connection
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise LedgerFull(
                    f"{self.path}: the disk is full; every run that was committed is safe, and the same command goes on"
                    " once there is room"
                ) from None
            raise LedgerError(f"{self.path}: cannot be written: {error}") from None

    def meta(self, name: str) -> str | None:
        row = self.connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return row["value"] if row else None

    def set_meta(self, name: str, value: str) -> None:
        if self.meta(name) == value:  # a finished sweep's file is not touched
            return
        with self._commit() as connection:
            connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def plan(self, rows: Iterable[Mapping[str, object]]) -> None:
        """Makes the ledger's unfinished rows those of the plan: finished ones stay, whatever else was planned goes.

        Attempts that a killed driver left open are closed as lost.
        """
        wanted = {str(row["key"]): row for row in rows}
        states = dict(tuple(row) for row in self.connection.execute("SELECT key, state FROM runs"))
        final = self.finished_keys()
        gone = [(key,) for key in states.keys() - wanted.keys() - final]
        again = [(key,) for key, state in states.items() if key in wanted and key not in final and state != "planned"]
        new = [row for key, row in wanted.items() if key not in states]
        still_open = self.connection.execute("SELECT 1 FROM attempts WHERE ended_at IS NULL LIMIT 1").fetchone()
        if not (gone or again or new or still_open):
            return
        with self._commit() as connection:
            connection.execute(
                "UPDATE attempts SET ended_at = ?, outcome = 'lost', reason = 'the driver ended' WHERE ended_at IS NULL",
                (_now(),),
            )
            connection.executemany("DELETE FROM runs WHERE key = ?", gone)
            connection.executemany("UPDATE runs SET state = 'planned', error = NULL WHERE key = ?", again)
            if new:
                marks = ", ".join(f":{name}" for name in new[0])
                connection.executemany(f"INSERT INTO runs ({', '.join(new[0])}) VALUES ({marks})", new)

    def start(self, keys: Sequence[str], worker: str) -> None:
        """Marks runs as handed to a worker, once more."""
        with self._commit() as connection:
            for key in keys:
                connection.execute(
                    f"UPDATE runs SET state = 'running', attempts = attempts + 1 WHERE key = ? AND NOT {IS_FINAL}",
                    (key,),
                )
                connection.execute(
                    "INSERT INTO attempts (key, number, started_at, worker) SELECT ?, count(*) + 1, ?, ? FROM attempts"
                    " WHERE key = ?",
                    (key, _now(), worker, key),
                )

    def finish(self, records: Sequence[RunRecord]) -> None:
        """Commits finished runs, all or none; a second record of the same run changes nothing."""
        with self._commit() as connection:
            for record in records:
                values = record.model_dump(mode="json")
                values |= {name: json.dumps(values[name], sort_keys=True) for name in AS_JSON}
                assignments = ", ".join(f"{name} = :{name}" for name in values if name != "key")
                connection.execute(f"UPDATE runs SET {assignments} WHERE key = :key AND NOT {IS_FINAL}", values)
                self._end_attempt(record.key, record.state, record.error)

    def back_to(self, state: str, keys: Sequence[str], outcome: str, reason: str | None = None) -> None:
        """Takes runs that did not finish to `planned` (to be tried again) or `failed`, and closes their attempts."""
        with self._commit() as connection:
            for key in keys:
                connection.execute(
                    f"UPDATE runs SET state = ?, error = ? WHERE key = ? AND NOT {IS_FINAL}", (state, reason, key)
                )
                self._end_attempt(key, outcome, reason)

    def censor(self, keys: Sequence[str], reason: str, curves: Mapping[str, Sequence[CurvePoint]]) -> None:
        """Leaves runs that a cap ended short of their D, with their curves so far; more budget takes them up again."""
        with self._commit() as connection:
            for key in keys:
                curve = json.dumps([tuple(point) for point in curves.get(key, ())]) if curves.get(key) else None
                connection.execute(
                    "UPDATE runs SET state = 'censored', error = ?, curve = coalesce(?, curve)"
                    f" WHERE key = ? AND NOT {IS_FINAL}",
                    (reason, curve, key),
                )
                self._end_attempt(key, "censored", reason)

    def _end_attempt(self, key: str, outcome: str, reason: str | None) -> None:
        self.connection.execute(
            "UPDATE attempts SET ended_at = ?, outcome = ?, reason = ? WHERE key = ? AND ended_at IS NULL",
            (_now(), outcome, reason, key),
        )

    def rows(self) -> list[dict[str, Any]]:
        """Every run, by N, D and seed."""
        return [dict(row) for row in self.connection.execute(f"SELECT * FROM runs {ORDER}")]

    def attempts(self) -> list[dict[str, Any]]:
        """Every attempt, by run and number."""
        return [dict(row) for row in self.connection.execute("SELECT * FROM attempts ORDER BY key, number")]

    def finished_keys(self) -> frozenset[str]:
        return frozenset(row["key"] for row in self.connection.execute(f"SELECT key FROM runs WHERE {IS_FINAL}"))

    def speeds(self) -> list[tuple[str, int, int, float]]:
        """Device, n_layers, d_model and tokens/s of every run that is done."""
        asked = "SELECT device, n_layers, d_model, tokens_per_s FROM runs WHERE state = 'done' AND tokens_per_s > 0"
        return [(*row,) for row in self.connection.execute(asked)]

    def by_state(self) -> dict[str, int]:
        """Number of runs in each state that occurs."""
        found = self.connection.execute("SELECT state, count(*) AS n FROM runs GROUP BY state")
        return {row["state"]: row["n"] for row in found}


def open_ledger(folder: Path) -> Ledger:
    """The ledger of a sweep folder that exists; where it cannot be written it is only read.

    Raises:
        LedgerError: the folder holds none.
    """
    path = folder / FILE
    if not path.is_file():
        raise LedgerError(f"{folder}: no sweep here ({FILE} is missing); start one with `sixnd run`")
    return Ledger(path, read_only=not (os.access(path, os.W_OK) and os.access(folder, os.W_OK)))


def open_read_only(path: Path) -> sqlite3.Connection:
    """A connection that writes nothing; on a folder that cannot be written even the log beside the file is left alone."""
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=10)
    try:
        connection.execute("SELECT 1 FROM sqlite_master")
    except sqlite3.OperationalError:
        connection.close()
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?immutable=1", uri=True)
    return connection


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
