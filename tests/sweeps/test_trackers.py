"""Trackers: told of everything once and in order, never in the way, from a process that ends with the driver."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from sixnd.models.config import ModelConfig
from sixnd.sweeps.ledger.store import FILE, Ledger
from sixnd.sweeps.live import LiveFile
from sixnd.sweeps.planning.plan import planned_row
from sixnd.sweeps.trackers.follow import Follower
from sixnd.sweeps.trackers.following import FOLDER, LOG, dropped, following
from sixnd.train.progress import Progress
from sixnd.train.record import RunRecord
from sixnd.train.schedule import Schedule
from sixnd.train.settings import OptimizerSettings
from sixnd.train.spec import RunSpec

ROOT = Path(__file__).parents[2]
ME = "tests.sweeps.test_trackers"
FIT = {
    "law": "chinchilla",
    "n_runs": 6,
    "params": {"A": 1.5, "alpha": 0.3},
    "ci95": {"A": [1.0, 2.0], "alpha": [0.2, 0.4]},
    "frontier": {"a": 0.5, "b": 0.5, "a_ci95": [0.4, 0.6], "b_ci95": [0.4, 0.6]},
}


class Recorder:
    """Writes down what it is told, in a file that outlives its process."""

    def __init__(self, folder: Path, sweep: str) -> None:
        self.file = folder / "events"
        self.note("opened", sweep)

    def note(self, *event: object) -> None:
        with self.file.open("a") as file:
            file.write(json.dumps(event) + "\n")

    def started(self, row: Mapping[str, Any]) -> None:
        self.note("started", row["key"])

    def progress(self, row: Mapping[str, Any], tokens: int, loss: float, tokens_per_s: float) -> None:
        self.note("progress", row["key"], tokens, loss, tokens_per_s)

    def finished(self, row: Mapping[str, Any]) -> None:
        self.note("finished", row["key"], row["state"], row["test_loss"])

    def law(self, fit: Mapping[str, Any]) -> None:
        self.note("law", fit["n_runs"])

    def close(self) -> None:
        self.note("closed")


class FailsAtProgress(Recorder):
    def progress(self, *_: object) -> None:
        raise RuntimeError("the server said no\nat length")


class FailsAtOnce(Recorder):
    def __init__(self, *_: object) -> None:
        raise ConnectionError("no network")


class HasNoLaw:
    def started(self, row: Mapping[str, Any]) -> None: ...


def events(out: Path, name: str = "recorder") -> list[list[Any]]:
    path = out / FOLDER / name / "events"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def spec(tokens: int = 4096) -> RunSpec:
    return RunSpec(
        corpus="0" * 16,
        model=ModelConfig.from_shape(1, 32, 300, 16),
        tokens=tokens,
        seed=0,
        batch_tokens=64,
        optimizer=OptimizerSettings(lr=0.01, beta2=0.99),
        schedule=Schedule(warmup_tokens=128),
        precision="bf16",
    )


def record(run: RunSpec, **changed: object) -> RunRecord:
    row = planned_row(run) | {"state": "done", "test_loss": 4.5, "test_loss_se": 0.01, "bits_per_byte": 2.0}
    measured = {"loss_by_source": {"a": 4.5}, "accuracy": 0.2, "exact_match": {"1": 0.2}, "wall_s": 1.0}
    measured |= {"curve": ((1024, 5.5, 0.1), (2048, 5.0, 0.1)), "tokens_per_s": 1000.0, "error": None}
    known = dict.fromkeys(RunRecord.model_fields) | row | measured | changed
    return RunRecord.model_validate({name: known[name] for name in RunRecord.model_fields} | FILLED)


FILLED = {"sixnd_version": "0", "torch_version": "0", "device": "test", "finished_at": "2020-01-01T00:00:00+00:00"}


class Sweep:
    """A sweep of two runs as its driver leaves it on the disk, step by step."""

    def __init__(self, out: Path) -> None:
        out.mkdir(exist_ok=True)
        (out / "live").mkdir(exist_ok=True)
        self.out, self.runs = out, (spec(4096), spec(8192))
        self.keys = [run.key for run in self.runs]
        self.ledger = Ledger(out / FILE)
        self.ledger.plan(planned_row(run) for run in self.runs)

    def live(self, which: int, tokens: int) -> None:
        LiveFile(self.out / "live", self.keys[which])(Progress(tokens, self.runs[which].tokens, 5.0, 1000.0))

    def fit(self, n_runs: int = 6) -> None:
        (self.out / "fit.json").write_text(json.dumps(FIT | {"n_runs": n_runs}))


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "out")


def until(holds: Any, limit: float = 30.0) -> None:
    deadline = time.monotonic() + limit
    while not holds():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def test_a_tracker_is_told_in_order(sweep: Sweep) -> None:
    first, second = sweep.keys
    follower = Follower(sweep.out, {"recorder": Recorder})
    follower.look()
    sweep.ledger.start([first], "slot 0")
    follower.look()
    sweep.live(0, 1000)
    follower.look()
    follower.look()
    sweep.ledger.finish([record(sweep.runs[0])])
    sweep.ledger.start([second], "slot 0")
    sweep.fit()
    follower.look()
    sweep.ledger.finish([record(sweep.runs[1], state="diverged", test_loss=None, error="at step 3")])
    follower.look()
    follower.close()
    assert events(sweep.out) == [
        ["opened", "out"],
        ["started", first],
        ["progress", first, 1000, 5.0, 1000.0],
        ["finished", first, "done", 4.5],
        ["started", second],
        ["law", 6],
        ["finished", second, "diverged", None],
        ["closed"],
    ]


def test_a_follower_started_again_tells_nothing_twice(sweep: Sweep) -> None:
    first, second = sweep.keys
    for key in sweep.keys:
        sweep.ledger.start([key], "slot 0")
    sweep.ledger.finish([record(sweep.runs[0])])
    sweep.live(1, 1000)
    sweep.fit()
    Follower(sweep.out, {"recorder": Recorder}).look()  # and is killed: nothing is closed
    before = len(events(sweep.out))
    again = Follower(sweep.out, {"recorder": Recorder})
    again.look()
    sweep.live(1, 500)  # from a checkpoint
    again.look()
    sweep.live(1, 2000)
    again.look()
    sweep.fit(7)
    again.look()
    assert events(sweep.out)[before:] == [
        ["opened", "out"],
        ["started", second],
        ["progress", second, 2000, 5.0, 1000.0],
        ["law", 7],
    ]
    assert [event for event in events(sweep.out) if event[0] == "finished"] == [["finished", first, "done", 4.5]]


def test_a_failed_run_that_is_tried_again_is_told_again(sweep: Sweep) -> None:
    key = sweep.keys[0]
    follower = Follower(sweep.out, {"recorder": Recorder})
    sweep.ledger.start([key], "slot 0")
    sweep.ledger.back_to("failed", [key], "failed", "lost")
    follower.look()
    sweep.ledger.start([key], "slot 0")
    follower.look()
    sweep.ledger.finish([record(sweep.runs[0])])
    follower.look()
    told = [event[0:3] for event in events(sweep.out)[1:]]
    assert told == [
        ["started", key],
        ["finished", key, "failed"],
        ["started", key],
        ["finished", key, "done"],
    ]


def test_a_tracker_that_fails_is_dropped_and_the_others_go_on(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    sweep.ledger.start([sweep.keys[0]], "slot 0")
    sweep.live(0, 1000)
    classes = {"bad": FailsAtProgress, "absent": FailsAtOnce, "recorder": Recorder}
    follower = Follower(sweep.out, classes)
    follower.look()
    sweep.ledger.finish([record(sweep.runs[0])])
    follower.look()
    follower.close()
    assert [event[0] for event in events(sweep.out)] == ["opened", "started", "progress", "finished", "closed"]
    assert [event[0] for event in events(sweep.out, "bad")] == ["opened", "started"]
    lines = dropped(sweep.out)
    assert len(lines) == 2
    assert "tracker absent was dropped: ConnectionError: no network;" in lines[0]
    assert "tracker bad was dropped: RuntimeError: the server said no;" in lines[1]
    assert "at length" in capsys.readouterr().err
    Follower(sweep.out, {"recorder": Recorder}).look()
    assert dropped(sweep.out) == [], "that was another sitting's"


def test_following_ends_with_its_block(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    name, said = f"{ME}:Recorder", list[str]()
    with following(sweep.out, [name, f"{ME}:FailsAtOnce"], said.append):
        sweep.ledger.start([sweep.keys[0]], "slot 0")
        sweep.live(0, 1000)
        until(lambda: ["started", sweep.keys[0]] in events(sweep.out, name.replace(":", ".")))
        sweep.ledger.finish([record(sweep.runs[0])])  # the last look must see it
    assert [event[0] for event in events(sweep.out, name.replace(":", "."))][-2:] == ["finished", "closed"]
    assert len(said) == 1
    assert "FailsAtOnce was dropped: ConnectionError: no network" in said[0]
    assert "ConnectionError" in (sweep.out / LOG).read_text()


def test_the_follower_ends_when_its_driver_is_killed(sweep: Sweep) -> None:
    driver = (
        "import time; from pathlib import Path; from sixnd.sweeps.trackers.following import following\n"
        f"with following(Path({str(sweep.out)!r}), ['{ME}:Recorder'], print): time.sleep(60)"
    )
    folder = f"{ME}.Recorder"
    for sitting in (1, 2):
        process = subprocess.Popen([sys.executable, "-c", driver], cwd=ROOT)
        sweep.ledger.start([sweep.keys[0]], "slot 0")
        until(lambda n=sitting: Counter(event[0] for event in events(sweep.out, folder))["started"] == n)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        until(lambda n=sitting: Counter(event[0] for event in events(sweep.out, folder))["closed"] == n)


def test_without_trackers_no_process_is_started(tmp_path: Path) -> None:
    with following(tmp_path, [], print):
        assert not list(tmp_path.iterdir())
