"""The ledger: finished rows are never lost, doubled or overwritten, whatever the disk, the clock or an older sixnd did."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from sixnd.analysis.tables.table import read_table
from sixnd.sweeps.ledger.export import export
from sixnd.sweeps.ledger.filesystem import network_filesystem
from sixnd.sweeps.ledger.schema import ADDED, COLUMNS
from sixnd.sweeps.ledger.store import FILE, Ledger, LedgerError, LedgerFull, open_ledger
from sixnd.sweeps.planning.plan import planned_row
from sixnd.train.loop import train
from sixnd.train.record import CurvePoint, RunRecord
from sixnd.train.spec import RunSpec

FIRST_STATES = "('planned', 'running', 'done', 'diverged', 'failed')"  # of schemas 1 and 2


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / FILE)


@pytest.fixture(scope="module")
def record(run_spec: RunSpec, corpora: Path) -> RunRecord:
    return train(run_spec, corpora=corpora, say=lambda _: None)


def seeds_of(run_spec: RunSpec, *seeds: int) -> list[RunSpec]:
    return [run_spec.model_copy(update={"seed": seed}) for seed in seeds]


def test_a_run_goes_from_planned_to_done(ledger: Ledger, run_spec: RunSpec, record: RunRecord) -> None:
    ledger.plan([planned_row(run_spec)])
    assert ledger.rows()[0]["state"] == "planned"
    ledger.start([record.key], "slot 1")
    assert (ledger.rows()[0]["state"], ledger.rows()[0]["attempts"]) == ("running", 1)
    ledger.finish([record])
    (row,) = ledger.rows()
    assert row["state"] == "done" and row["test_loss"] == record.test_loss
    assert {name for name, value in row.items() if value is None} == {"error", "test_loss_dirty"}
    assert ledger.finished_keys() == {record.key}
    (attempt,) = ledger.attempts()
    assert (attempt["number"], attempt["worker"], attempt["outcome"]) == (1, "slot 1", "done")


def test_a_finished_row_stays_as_it_is(ledger: Ledger, run_spec: RunSpec, record: RunRecord) -> None:
    ledger.plan([planned_row(run_spec)])
    ledger.finish([record])
    before = ledger.rows()
    ledger.finish([record.model_copy(update={"test_loss": 0.0})])
    ledger.back_to("failed", [record.key], "failed", "late")
    ledger.censor([record.key], "late", {})
    ledger.plan([planned_row(run_spec)])
    ledger.plan([])
    assert ledger.rows() == before


def test_every_attempt_is_kept_with_its_reason(ledger: Ledger, run_spec: RunSpec, record: RunRecord) -> None:
    ledger.plan([planned_row(run_spec)])
    ledger.start([record.key], "slot 0")
    ledger.back_to("planned", [record.key], "lost", "worker ended")
    ledger.start([record.key], "slot 1")
    ledger.plan([planned_row(run_spec)])  # a driver that was killed comes back
    ledger.start([record.key], "slot 0")
    ledger.finish([record])
    told = [(attempt["number"], attempt["outcome"], attempt["reason"]) for attempt in ledger.attempts()]
    assert told == [(1, "lost", "worker ended"), (2, "lost", "the driver ended"), (3, "done", None)]
    assert ledger.rows()[0]["attempts"] == 3


def test_a_stack_is_committed_as_one(ledger: Ledger, run_spec: RunSpec, record: RunRecord) -> None:
    runs = seeds_of(run_spec, 0, 1)
    ledger.plan(planned_row(run) for run in runs)
    records = [record.model_copy(update={"key": run.key, "seed": run.seed}) for run in runs]
    unfit = records[1].model_construct(**(records[1].model_dump() | {"state": "no state"}))
    with pytest.raises((LedgerError, sqlite3.IntegrityError)):
        ledger.finish([records[0], unfit])
    assert {row["state"] for row in ledger.rows()} == {"planned"}
    ledger.finish(records)
    assert {row["state"] for row in ledger.rows()} == {"done"}


def test_a_censored_run_keeps_its_curve_and_goes_on(ledger: Ledger, run_spec: RunSpec) -> None:
    ledger.plan([planned_row(run_spec)])
    ledger.start([run_spec.key], "slot 0")
    ledger.censor([run_spec.key], "the budget was spent", {run_spec.key: (CurvePoint(64, 5.5, None),)})
    (row,) = ledger.rows()
    assert (row["state"], row["test_loss"], json.loads(row["curve"])) == ("censored", None, [[64, 5.5, None]])
    assert ledger.finished_keys() == frozenset()
    ledger.plan([planned_row(run_spec)])
    (row,) = ledger.rows()
    assert (row["state"], row["error"]) == ("planned", None) and row["curve"]


def test_planning_again_replaces_what_was_not_finished(ledger: Ledger, run_spec: RunSpec) -> None:
    ledger.plan([planned_row(run_spec)])
    other = run_spec.model_copy(update={"seed": 5})
    ledger.plan([planned_row(other)])
    assert [row["key"] for row in ledger.rows()] == [other.key]


def test_exports_hold_every_row_in_order(ledger: Ledger, run_spec: RunSpec, record: RunRecord, tmp_path: Path) -> None:
    ledger.plan(planned_row(run) for run in seeds_of(run_spec, 2, 1, 0))
    ledger.finish([record])
    export(ledger, tmp_path / "runs.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert [row["seed"] for row in rows] == [0, 1, 2]
    assert rows[0]["spec"]["tokens"] == run_spec.tokens and rows[0]["test_loss"] == record.test_loss
    export(ledger, tmp_path / "runs.parquet")
    frame = pd.read_parquet(tmp_path / "runs.parquet")
    assert list(frame["seed"]) == [0, 1, 2] and frame["test_loss"][0] == record.test_loss
    assert frame["curve"][0][0]["loss"] == record.curve[0].loss
    for name in ("runs.jsonl", "runs.parquet"):
        assert list(read_table(tmp_path / name).loss) == [record.test_loss]
    with pytest.raises(LedgerError, match=r"ends in \.jsonl or \.parquet"):
        export(ledger, tmp_path / "runs.xlsx")
    assert {path.name for path in tmp_path.glob("runs*")} == {"runs.jsonl", "runs.parquet"}


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


@pytest.mark.parametrize("version", [1, 2])
def test_a_ledger_of_an_older_schema_is_brought_up(
    tmp_path: Path, run_spec: RunSpec, record: RunRecord, version: int
) -> None:
    """Rows stay, new columns are empty, and the new states are allowed."""
    old_columns = [name for name in COLUMNS if not any(name in ADDED[new] for new in ADDED if new > version)]
    current = Ledger(tmp_path / "current.sqlite")
    current.plan(planned_row(run) for run in seeds_of(run_spec, 0, 1))
    current.finish([record])
    kinds = COLUMNS | {"state": f"TEXT NOT NULL CHECK (state IN {FIRST_STATES})"}
    old = sqlite3.connect(tmp_path / FILE)
    old.execute(f"CREATE TABLE runs ({', '.join(f'{name} {kinds[name]}' for name in old_columns)})")
    old.execute("CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
    old.execute("INSERT INTO meta VALUES ('schema', ?)", (str(version),))
    marks = ", ".join(f":{name}" for name in old_columns)
    old.executemany(f"INSERT INTO runs ({', '.join(old_columns)}) VALUES ({marks})", current.rows())
    old.commit()
    old.close()
    for _ in range(2):  # the second time there is nothing left to do
        ledger = Ledger(tmp_path / FILE)
        done, planned = ledger.rows()
        assert (done["test_loss"], done["tuned"]) == (record.test_loss, 0)
        assert (done["accuracy"] is None) == (version == 1)
        ledger.censor([planned["key"]], "a state that the old schema had not", {})
        assert ledger.by_state() == {"done": 1, "censored": 1}
        assert ledger.meta("schema") == "3"
        ledger.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of its own of 512 kB."""
    where = tmp_path / "disk"
    where.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(where)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small filesystem needs root")
    yield where
    subprocess.run(["umount", "-l", str(where)], check=True)


def test_a_full_disk_ends_in_one_line_and_loses_nothing(small_disk: Path, run_spec: RunSpec, record: RunRecord) -> None:
    ledger = Ledger(small_disk / FILE)
    runs = seeds_of(run_spec, 0, 1)
    ledger.plan(planned_row(run) for run in runs)
    ledger.finish([record])
    with pytest.raises(LedgerFull, match="the disk is full; every run that was committed is safe"):
        for filler in range(1000):
            ledger.set_meta(f"filler {filler}", "x" * 4000)
    ledger.close()
    again = Ledger(small_disk / FILE, read_only=True)
    assert again.finished_keys() == {record.key} and len(again.rows()) == 2


def test_a_ledger_that_cannot_be_written_is_still_read(small_disk: Path, run_spec: RunSpec, record: RunRecord) -> None:
    ledger = Ledger(small_disk / FILE)
    ledger.plan([planned_row(run_spec)])
    ledger.finish([record])
    ledger.close()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert open_ledger(small_disk).finished_keys() == {record.key}
    with pytest.raises(LedgerError, match="it or its folder cannot be written"):
        Ledger(small_disk / FILE).set_meta("a", "b")


def test_network_filesystems_are_known_by_their_type(tmp_path: Path) -> None:
    mounts = f"/dev/sda / ext4 rw 0 0\nserver:/home {tmp_path} nfs4 rw 0 0\ntmpfs {tmp_path}/local tmpfs rw 0 0\n"
    assert network_filesystem(tmp_path / "sweep" / FILE, mounts) == "nfs4"
    assert network_filesystem(tmp_path / "local" / FILE, mounts) is None
    assert network_filesystem(Path("/elsewhere"), mounts) is None
    assert network_filesystem(tmp_path, "") is None


def test_on_a_network_filesystem_the_log_is_a_rollback_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sixnd.sweeps.ledger.store.network_filesystem", lambda _: "nfs4")
    ledger = Ledger(tmp_path / FILE)
    assert ledger.network == "nfs4"
    assert ledger.connection.execute("PRAGMA journal_mode").fetchone()[0] == "delete"


def test_a_clock_that_jumps_back_changes_no_order(
    ledger: Ledger, run_spec: RunSpec, record: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter(["2031-01-01T00:00:00+00:00"] * 2 + ["2001-01-01T00:00:00+00:00", "2001-01-01T00:00:01+00:00"])
    monkeypatch.setattr("sixnd.sweeps.ledger.store._now", lambda: next(times))
    ledger.plan([planned_row(run_spec)])
    ledger.start([record.key], "slot 0")
    ledger.back_to("planned", [record.key], "lost", "worker ended")
    ledger.start([record.key], "slot 0")
    assert [(a["number"], a["outcome"]) for a in ledger.attempts()] == [(1, "lost"), (2, None)]


def test_live_progress_does_not_hang_on_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sixnd.sweeps.live import LiveFile, read_live
    from sixnd.train.progress import Progress

    progress = Progress(10, 20, 3.5, 1000.0)
    LiveFile(tmp_path, "abc")(progress)
    (tmp_path / "broken.json").write_text("{")
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert read_live(tmp_path) == {"abc": progress}
    os.utime(tmp_path / "abc.json", (0, 0))
    assert read_live(tmp_path) == {}
