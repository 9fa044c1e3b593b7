"""Merging the ledgers of a sweep that ran in two places, and what the commands say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sixnd.sweeps.ledger.merge import Merged, merge
from sixnd.sweeps.ledger.store import FILE, Ledger, LedgerError
from sixnd.sweeps.planning.plan import planned_row
from sixnd.train.loop import train
from sixnd.train.record import RunRecord
from sixnd.train.spec import RunSpec

from tests.command import sixnd

SETTINGS = json.dumps({"train.lr": "auto"})


@pytest.fixture(scope="module")
def record(run_spec: RunSpec, corpora: Path) -> RunRecord:
    return train(run_spec, corpora=corpora, say=lambda _: None)


def runs(run_spec: RunSpec) -> list[RunSpec]:
    return [run_spec.model_copy(update={"seed": seed}) for seed in range(4)]


def place(folder: Path, run_spec: RunSpec, record: RunRecord, *done: int, loss: float | None = None) -> Path:
    """A sweep folder with four runs, of which those of `done` are finished."""
    ledger = Ledger(folder / FILE)
    ledger.set_meta("settings", SETTINGS)
    ledger.plan(planned_row(run) for run in runs(run_spec))
    for seed in done:
        key = runs(run_spec)[seed].key
        change = {"key": key, "seed": seed, "test_loss": record.test_loss if loss is None else loss}
        ledger.start([key], "slot 0")
        ledger.finish([record.model_copy(update=change)])
        (folder / "documents").mkdir(exist_ok=True)
        (folder / "documents" / f"{key}.npz").write_bytes(str(folder).encode())
    ledger.close()
    return folder


def test_finished_runs_are_taken_once(tmp_path: Path, run_spec: RunSpec, record: RunRecord) -> None:
    a = place(tmp_path / "a", run_spec, record, 0, 1)
    b = place(tmp_path / "b", run_spec, record, 1, 2)
    before = (b / FILE).read_bytes()
    assert merge(a, b, dry_run=True) == Merged(taken=1, known=1, differing=0, largest_difference=0.0)
    assert Ledger(a / FILE).by_state() == {"planned": 2, "done": 2}
    assert merge(a, b).taken == 1
    after = Ledger(a / FILE).rows()
    assert merge(a, b) == Merged(taken=0, known=2, differing=0, largest_difference=0.0)
    ledger = Ledger(a / FILE)
    assert ledger.rows() == after and ledger.by_state() == {"planned": 1, "done": 3}
    assert len(ledger.attempts()) == 3
    assert (b / FILE).read_bytes() == before
    keys = [run.key for run in runs(run_spec)]
    assert (a / "documents" / f"{keys[2]}.npz").read_bytes() == str(b).encode()
    assert (a / "documents" / f"{keys[1]}.npz").read_bytes() == str(a).encode()


def test_where_both_have_a_run_the_first_stays(tmp_path: Path, run_spec: RunSpec, record: RunRecord) -> None:
    assert record.test_loss is not None
    a, b = (
        place(tmp_path / "a", run_spec, record, 0),
        place(tmp_path / "b", run_spec, record, 0, loss=record.test_loss + 0.5),
    )
    merged = merge(a, b)
    assert (merged.taken, merged.differing) == (0, 1) and merged.largest_difference == pytest.approx(0.5)
    assert [row["test_loss"] for row in Ledger(a / FILE).rows() if row["state"] == "done"] == [record.test_loss]


def test_other_settings_are_refused_by_name(tmp_path: Path, run_spec: RunSpec, record: RunRecord) -> None:
    a, b = place(tmp_path / "a", run_spec, record, 0), place(tmp_path / "b", run_spec, record, 1)
    Ledger(b / FILE).set_meta("settings", json.dumps({"train.lr": 0.001}))
    with pytest.raises(
        LedgerError, match=r"b: its runs were trained with train\.lr = 0\.001, those of .*a with 'auto'"
    ):
        merge(a, b)


def test_the_commands(tmp_path: Path, run_spec: RunSpec, record: RunRecord) -> None:
    place(tmp_path / "a", run_spec, record, 0), place(tmp_path / "b", run_spec, record, 1)
    said = sixnd("ledger", "merge", "a", "b", cwd=tmp_path).stdout
    assert "a: 1 runs taken from b" in said
    printed = sixnd("ledger", "export", "a", cwd=tmp_path).stdout
    assert [json.loads(line)["seed"] for line in printed.splitlines()] == [0, 1, 2, 3]
    assert "ends in .jsonl or .parquet" in sixnd("ledger", "export", "a", "--to", "a.xlsx", cwd=tmp_path, code=2).stderr
    assert "no sweep here" in sixnd("ledger", "merge", "a", "nowhere", cwd=tmp_path, code=2).stderr
    shown = sixnd("status", "a", cwd=tmp_path).stdout
    assert "2 planned, 2 done" in shown and "no driver is at work" in shown
    assert "2 planned, 2 done" in sixnd("status", "a", "--watch", cwd=tmp_path).stdout
    status = json.loads(sixnd("status", "a", "--json", cwd=tmp_path).stdout)
    assert status["states"] == {"planned": 2, "done": 2} and status["driver_at_work"] is False


def test_a_large_sweep_is_shown_by_n_and_d(tmp_path: Path, run_spec: RunSpec) -> None:
    ledger = Ledger(tmp_path / "large" / FILE)
    ledger.plan(planned_row(run_spec.model_copy(update={"seed": seed})) for seed in range(300))
    ledger.close()
    shown = sixnd("status", "large", cwd=tmp_path).stdout
    assert "0/300" in shown and len(shown.splitlines()) < 10
