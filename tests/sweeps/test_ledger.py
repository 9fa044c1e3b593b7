"""The ledger: finished rows are never lost, doubled or overwritten."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from sixnd.sweeps.ledger.store import ADDED, FILE, Ledger, LedgerError, open_ledger
from sixnd.sweeps.planning.plan import planned_row
from sixnd.train.loop import train
from sixnd.train.record import RunRecord
from sixnd.train.spec import RunSpec


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / FILE)


@pytest.fixture(scope="module")
def record(run_spec: RunSpec, corpora: Path) -> RunRecord:
    return train(run_spec, corpora=corpora, say=lambda _: None)


def test_a_run_goes_from_planned_to_done(ledger: Ledger, run_spec: RunSpec, record: RunRecord) -> None:
    ledger.plan([planned_row(run_spec)])
    assert ledger.rows()[0]["state"] == "planned"
    ledger.start(record.key)
    assert (ledger.rows()[0]["state"], ledger.rows()[0]["attempts"]) == ("running", 1)
    ledger.finish(record)
    (row,) = ledger.rows()
    assert row["state"] == "done" and row["test_loss"] == record.test_loss
    assert {name for name, value in row.items() if value is None} == {"error", "test_loss_dirty"}
    assert ledger.finished_keys() == {record.key}


def test_a_finished_row_stays_as_it_is(ledger: Ledger, run_spec: RunSpec, record: RunRecord) -> None:
    ledger.plan([planned_row(run_spec)])
    ledger.finish(record)
    before = ledger.rows()
    ledger.finish(record.model_copy(update={"test_loss": 0.0}))
    ledger.back_to("failed", record.key, "late")
    ledger.start(record.key)
    ledger.plan([planned_row(run_spec)])
    ledger.plan([])
    assert ledger.rows() == before


def test_planning_again_replaces_what_was_not_finished(ledger: Ledger, run_spec: RunSpec) -> None:
    ledger.plan([planned_row(run_spec)])
    other = run_spec.model_copy(update={"seed": 5})
    ledger.plan([planned_row(other)])
    assert [row["key"] for row in ledger.rows()] == [other.key]


def test_the_export_holds_every_row_in_order(
    ledger: Ledger, run_spec: RunSpec, record: RunRecord, tmp_path: Path
) -> None:
    seeds = [run_spec.model_copy(update={"seed": seed}) for seed in (2, 1, 0)]
    ledger.plan(planned_row(run) for run in seeds)
    ledger.finish(record)
    ledger.export_jsonl(tmp_path / "runs.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert [row["seed"] for row in rows] == [0, 1, 2]
    assert rows[0]["spec"]["tokens"] == run_spec.tokens and rows[0]["test_loss"] == record.test_loss


def test_rows_are_written_through(ledger: Ledger) -> None:
    assert ledger.connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert ledger.connection.execute("PRAGMA synchronous").fetchone()[0] == 2


def test_what_is_no_ledger_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="no sweep here"):
        open_ledger(tmp_path)
    (tmp_path / FILE).write_text("not a database, but long enough to be taken for one" * 100)
    with pytest.raises(LedgerError, match="cannot be used as a ledger"):
        open_ledger(tmp_path)
    other = tmp_path / "other" / FILE
    Ledger(other).set_meta("schema", "99")
    with pytest.raises(LedgerError, match="schema 99"):
        Ledger(other)
    sqlite3.connect(other).close()


def test_a_ledger_of_the_first_schema_is_brought_up(tmp_path: Path, run_spec: RunSpec, record: RunRecord) -> None:
    old = Ledger(tmp_path / FILE)
    old.plan([planned_row(run_spec)])
    old.finish(record)
    for column in ADDED[2]:
        old.connection.execute(f"ALTER TABLE runs DROP COLUMN {column}")
    old.set_meta("schema", "1")
    old.close()
    for _ in range(2):  # the second time there is nothing left to do
        (row,) = Ledger(tmp_path / FILE).rows()
        assert (row["test_loss"], row["test_loss_clean"]) == (record.test_loss, None)
    assert Ledger(tmp_path / FILE).meta("schema") == "2"
