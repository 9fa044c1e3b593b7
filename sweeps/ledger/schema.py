"""The tables of a ledger, and how a ledger of an older schema becomes one of this."""

from __future__ import annotations

import sqlite3

SCHEMA_VERSION = 3

STATES = ("planned", "running", "done", "diverged", "failed", "censored")
FINAL = ("done", "diverged")  # what no later record changes
IS_FINAL = f"state IN {FINAL}"

# Column -> SQLite type. The key is a hash of the resolved RunSpec.
COLUMNS = {
    "key": "TEXT PRIMARY KEY",
    "state": f"TEXT NOT NULL CHECK (state IN {STATES})",
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
    "tuned": "INTEGER NOT NULL DEFAULT 0",
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
AS_JSON = ("loss_by_source", "exact_match", "curve")
# Each time that a run was handed to a worker, and how that ended: done, diverged, failed, stopped, censored or lost.
ATTEMPTS = {
    "key": "TEXT NOT NULL",
    "number": "INTEGER NOT NULL",
    "started_at": "TEXT NOT NULL",
    "ended_at": "TEXT",
    "worker": "TEXT NOT NULL",
    "outcome": "TEXT",
    "reason": "TEXT",
}
ADDED = {  # columns by the schema that brought them
    2: ("test_loss_clean", "test_loss_dirty", "accuracy", "exact_match", "curve"),
    3: ("tuned",),
}


def create(connection: sqlite3.Connection) -> None:
    """Makes whatever table is missing; must run inside a transaction."""
    connection.execute(f"CREATE TABLE IF NOT EXISTS runs ({_declared(COLUMNS)})")
    connection.execute(f"CREATE TABLE IF NOT EXISTS attempts ({_declared(ATTEMPTS)}, PRIMARY KEY (key, number))")
    connection.execute("CREATE INDEX IF NOT EXISTS runs_by_state ON runs (state, N_total, D)")
    connection.execute("CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)")


def migrate(connection: sqlite3.Connection, found: int) -> None:
    """From schema `found` to this one; must run inside a transaction. Rows keep what they have and lack the new columns.

    The table is made anew, because SQLite cannot change the list of allowed states.
    """
    new = {column for version, columns in ADDED.items() if version > found for column in columns}
    kept = ", ".join(column for column in COLUMNS if column not in new)
    connection.execute("ALTER TABLE runs RENAME TO runs_before")
    connection.execute("DROP INDEX IF EXISTS runs_by_state")
    create(connection)
    connection.execute(f"INSERT INTO runs ({kept}) SELECT {kept} FROM runs_before")
    connection.execute("DROP TABLE runs_before")
    connection.execute("UPDATE meta SET value = ? WHERE name = 'schema'", (str(SCHEMA_VERSION),))


def _declared(columns: dict[str, str]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in columns.items())
