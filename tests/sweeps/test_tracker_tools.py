"""What can be a tracker, and the real tools where they are installed."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from sixnd.sweeps.spec import SpecError
from sixnd.sweeps.trackers import hook
from sixnd.sweeps.trackers.following import FOLDER, dropped, following
from sixnd.sweeps.trackers.hook import check_trackers, load_tracker

from tests.sweeps.test_trackers import ME, ROOT, Sweep, record, until


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "out")


def test_what_cannot_be_a_tracker_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook, "find_spec", lambda _: None)
    with pytest.raises(SpecError) as refused:
        check_trackers(["wandb", "wandbb", "mlflow"])
    assert str(refused.value).splitlines() == [
        "trackers: wandb is not installed: pip install 'sixnd[wandb]'",
        "trackers: 'wandbb' is none; give wandb, trackio, tensorboard, mlflow, or module:Class of your own",
        "trackers: mlflow is not installed: pip install 'sixnd[mlflow]'",
    ]
    with pytest.raises(SpecError, match="names one twice"):
        check_trackers(["a:B", "a:B"])
    with pytest.raises(SpecError, match="HasNoLaw has no progress, finished, law, close"):
        load_tracker(f"{ME}:HasNoLaw")
    monkeypatch.chdir(ROOT)
    with (
        pytest.raises(SpecError, match=r"no_such_module:T cannot be imported: ModuleNotFoundError"),
        following(tmp_path, ["no_such_module:T"], print),
    ):
        raise AssertionError("the sweep must not start")


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio", "mlflow"])
def test_the_real_tools_hold_each_run_once(name: str, sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """In two sittings, as a sweep that was killed: what the tool holds afterwards is one run for each run, and the law."""
    pytest.importorskip(name)
    for variable in ("WANDB_MODE", "MLFLOW_TRACKING_URI", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
        monkeypatch.delenv(variable, raising=False)
    state = sweep.out / FOLDER / "state.json"
    for sitting in (1, 2):
        if sitting == 1:
            sweep.ledger.start([sweep.keys[0]], "slot 0")
            sweep.live(0, 1000)
        else:
            sweep.live(0, 2000)
        command = [sys.executable, "-m", "sixnd.sweeps.trackers.follow", str(sweep.out), "--tracker", name]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        if sitting == 2:
            until(lambda: json.loads(state.read_text())["told"][name]["tokens"].get(sweep.keys[0]) == 2000)
            sweep.ledger.finish([record(sweep.runs[0])])
            sweep.fit()
        _, printed = process.communicate(timeout=120)
        assert process.returncode == 0, printed.decode()
        assert dropped(sweep.out) == [], printed.decode()
    held = {
        "tensorboard": held_by_tensorboard,
        "wandb": held_by_wandb,
        "trackio": held_by_trackio,
        "mlflow": held_by_mlflow,
    }
    held[name](sweep.out / FOLDER / name, sweep.keys[0])


def held_by_tensorboard(folder: Path, key: str) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (of_run,) = folder.glob(f"*-{key}")
    assert sorted(path.name for path in folder.iterdir()) == sorted([of_run.name, "law"])
    read = EventAccumulator(str(of_run))
    read.Reload()
    assert [(point.step, point.value) for point in read.Scalars("train/loss")] == [(1000, 5.0), (2000, 5.0)]
    assert [(point.step, point.value) for point in read.Scalars("final/test_loss")] == [(4096, 4.5)]
    assert [point.step for point in read.Scalars("curve/loss")] == [1024, 2048]


def held_by_wandb(folder: Path, key: str) -> None:
    kept = [path.name.rpartition(f"-{key}") for path in (folder / "wandb").glob("offline-run-*")]
    assert sum(bool(found) for _, found, _ in kept) == 2, "two sittings of one id, which `wandb sync` joins"
    assert len(list((folder / "wandb").glob("offline-run-*-law-out"))) == 1


def held_by_trackio(folder: Path, key: str) -> None:
    with sqlite3.connect(folder / "out.db") as connection:
        points = connection.execute("SELECT run_name, step FROM metrics ORDER BY step").fetchall()
    of_run = [step for name, step in points if name.endswith(key)]
    assert of_run == [1000, 1024, 2000, 2048, 4096]
    assert {name for name, _ in points if not name.endswith(key)} == {"law"}


def held_by_mlflow(folder: Path, key: str) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("out")
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.data.tags["sixnd.key"] for run in runs) == sorted([key, "law"])
    (run,) = [run for run in runs if run.data.tags["sixnd.key"] == key]
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test_loss"] == 4.5
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "train/loss")] == [
        (1000, 5.0),
        (2000, 5.0),
    ]
