"""The Ray executor: rows of a sweep that lost a node equal the local executor's, and nothing is left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from sixnd.sweeps.driver import run_sweep
from sixnd.sweeps.executors.interface import Job, Outcome
from sixnd.sweeps.executors.local import LocalExecutor
from sixnd.sweeps.executors.mirror import Store
from sixnd.sweeps.executors.ray import RayExecutor
from sixnd.sweeps.executors.remote import Desk, RemoteWorker, worker_folder
from sixnd.sweeps.ledger.store import open_ledger
from sixnd.sweeps.planning.plan import make_plan
from sixnd.sweeps.toml import SpecError
from sixnd.train.corpus.store import Corpus
from sixnd.train.loop import train
from sixnd.train.memory import MOST_STACKED
from sixnd.train.record import RunRecord
from sixnd.train.spec import RunSpec, branch_file

from tests.sweeps.ray_child import long_run, places_in, smaller_sweep, stacked_sweep
from tests.sweeps.test_driver import ROOT, rows

needs_ray = pytest.mark.skipif(
    not (shutil.which("ray") or (Path(sys.executable).parent / "ray").exists()) or sys.platform != "linux",
    reason="needs the extra `ray`, and Linux, whose loopback has many addresses",
)


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """Of a child: a token that only it knows, and a folder whose name is short enough for Ray's sockets."""
    folder = tempfile.mkdtemp(prefix="sx")
    yield os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": os.urandom(16).hex(),
        "RAY_TMPDIR": folder,
        "RAY_USAGE_STATS_ENABLED": "0",
        "TMPDIR": folder,
    }
    left = [path for path in Path("/proc").glob("[0-9]*/environ") if folder in _text(path)]
    shutil.rmtree(folder)
    assert not left, "processes outlive the sweep"


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def play(scene: str, corpus: Corpus, out: Path, environment: dict[str, str]) -> str:
    command = [sys.executable, "-m", "tests.sweeps.ray_child", scene, str(corpus.path.parent), corpus.hash, str(out)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


@needs_ray
def test_a_sweep_that_loses_a_worker_and_a_node_has_the_rows_of_a_local_one(
    corpus: Corpus, tmp_path: Path, environment: dict[str, str]
) -> None:
    sweep = smaller_sweep()
    local, on_ray = tmp_path / "local", tmp_path / "ray"
    run_sweep(sweep, make_plan(sweep, corpus), local, corpus.path.parent, partial(LocalExecutor, 2), {})
    assert play("losses", corpus, on_ray, environment) == "killed node worker"
    assert len(rows(on_ray)) == 12
    assert rows(on_ray) == rows(local)
    documents = {path.name: path.read_bytes() for path in (local / "documents").glob("*.npz")}
    assert {path.name: path.read_bytes() for path in (on_ray / "documents").iterdir()} == documents


@needs_ray
def test_stacked_runs_whose_trunk_two_nodes_share_through_a_store_have_the_rows_of_local_ones(
    corpus: Corpus, tmp_path: Path, environment: dict[str, str]
) -> None:
    sweep = stacked_sweep()
    local, on_ray = tmp_path / "local", tmp_path / "ray"
    run_sweep(sweep, make_plan(sweep, corpus), local, corpus.path.parent, partial(LocalExecutor, 1, most_stacked=2), {})
    assert play("store", corpus, on_ray, environment) == "", "no checkpoint is left in the store"
    assert len(rows(on_ray)) == 4 and rows(on_ray) == rows(local)
    ledger = open_ledger(on_ray)
    assert len({attempt["worker"] for attempt in ledger.attempts()}) == 2
    ledger.close()


@needs_ray
def test_sigterm_reaches_the_driver_and_not_rays_own_handler(
    corpus: Corpus, tmp_path: Path, environment: dict[str, str]
) -> None:
    """As Slurm warns a job: the runs finish their step and write a checkpoint."""
    said = play("terminated", corpus, tmp_path, environment)
    assert said.startswith("stopped: ") and "of 12 runs finished in this sitting, all of them safe" in said
    assert list((tmp_path / "checkpoints").rglob("*.pt"))


@needs_ray
def test_a_run_stopped_on_one_node_goes_on_on_another_through_the_store(
    corpus: Corpus, tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir(), second.mkdir()
    stopped = Outcome.model_validate_json(play("stop", corpus, tmp_path, environment | {"TMPDIR": str(first)}))
    assert stopped.stopped and not stopped.records
    saved = list((tmp_path / "store" / "checkpoints").rglob("*.pt"))
    assert len(saved) == 1
    ended = Outcome.model_validate_json(play("end", corpus, tmp_path, environment | {"TMPDIR": str(second)}))
    assert not saved[0].exists(), "the second node started from it, and removed it once it was superfluous"
    monkeypatch.setenv("SIXND_CORPORA", str(corpus.path.parent))
    spec = long_run(corpus.hash)
    alone = train(spec, listener=lambda _: None, say=lambda _: None)
    assert _bits(ended.records[0]) == _bits(alone)
    assert (tmp_path / "documents" / f"{spec.key}.npz").is_file()
    assert not list((tmp_path / "live").glob("*.json"))


def _bits(record: RunRecord) -> dict[str, Any]:
    return record.model_dump(exclude={"tokens_per_s", "wall_s", "finished_at"})


@needs_ray
@pytest.mark.parametrize("key", ["ray.address", "RAY_ADDRESS"])
def test_no_cluster_at_an_address_is_one_line(
    corpus: Corpus, tmp_path: Path, environment: dict[str, str], key: str
) -> None:
    address = "auto" if key == "RAY_ADDRESS" else "127.0.0.1:1"
    program = (
        "import sys; from pathlib import Path; from tests.sweeps.ray_child import places_in\n"
        "from sixnd.sweeps.executors.ray import RayExecutor\n"
        f"RayExecutor(places_in(Path({str(tmp_path)!r})), address={address!r})\n"
    )
    quick = environment | {"SIXND_CORPORA": str(tmp_path), "RAY_gcs_rpc_server_connect_timeout_s": "1"}
    if key == "RAY_ADDRESS":
        quick["RAY_ADDRESS"] = "127.0.0.1:1"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=quick, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert f"SpecError: {key} = '127.0.0.1:1'" in last and "ray.address=local" in last


class Cluster:
    """An executor's view of a cluster, without one: nodes, and results by the name of their reference."""

    class exceptions:
        class RayError(Exception): ...

    def __init__(self) -> None:
        self.members: dict[str, dict[str, float]] = {}
        self.results: dict[str, Any] = {}

    def nodes(self) -> list[dict[str, Any]]:
        return [{"NodeID": n, "Alive": True, "Resources": r, "NodeManagerHostname": n} for n, r in self.members.items()]

    def wait(self, refs: list[str], **_: Any) -> tuple[list[str], list[str]]:
        return [ref for ref in refs if ref in self.results], []

    def get(self, ref: str, **_: Any) -> Any:
        if ref not in self.results:
            raise TimeoutError
        if isinstance(self.results[ref], Exception):
            raise self.results[ref]
        return self.results[ref]


@pytest.fixture
def executor(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RayExecutor:
    """One on a cluster of no nodes yet, whose every look is a fresh one."""
    monkeypatch.setenv("SIXND_CORPORA", str(corpus.path.parent))
    monkeypatch.setattr("sixnd.sweeps.executors.ray.LOOK_EVERY_S", 0.0)
    made = object.__new__(RayExecutor)
    made.__dict__ |= {
        "ray": Cluster(),
        "places": places_in(tmp_path),
        "slots": {},
        "running": {},
        "refused": {},
        "alive": set(),
        "trunks": set(),
        "asked": {},
    }
    made.__dict__ |= {"cpus_per_run": 1.0, "gpus_per_run": 0.0, "store": None, "_next_look": 0.0, "_served_at": 0.0}
    return made


@pytest.mark.parametrize(
    ("cpus", "gpus", "resources", "runs"),
    [
        (1.0, 0.0, {"CPU": 8.0, "GPU": 2.0}, 8),
        (0.5, 0.0, {"CPU": 2.0}, 4),
        (3.0, 0.0, {"CPU": 8.0}, 2),
        (1.0, 0.25, {"CPU": 64.0, "GPU": 8.0}, 32),
        (1.0, 0.3, {"CPU": 64.0, "GPU": 2.0}, 6),
        (1.0, 1.0, {"CPU": 4.0, "GPU": 8.0}, 4),
        (1.0, 0.5, {"CPU": 4.0}, 0),
        (1.0, 0.0, {"memory": 1.0}, 0),
    ],
)
def test_a_run_takes_up_cores_and_a_share_of_one_gpu(
    executor: RayExecutor, cpus: float, gpus: float, resources: dict[str, float], runs: int
) -> None:
    executor.cpus_per_run, executor.gpus_per_run = cpus, gpus
    assert executor._room(resources) == runs


def test_a_node_without_our_version_or_our_disk_says_what_to_do(tmp_path: Path) -> None:
    worker = object.__new__(RemoteWorker)
    worker.store = None
    (tmp_path / "marker").touch()
    from importlib.metadata import version

    here = version("sixnd")
    assert worker.refuses(here, tmp_path / "marker") is None
    assert "the driver 0.0.0" in (worker.refuses("0.0.0", tmp_path / "marker") or "")
    assert "give ray.store" in (worker.refuses(here, tmp_path / "other") or "")


def test_a_branch_point_is_looked_for_in_the_store_at_most_once_a_second(
    executor: RayExecutor, tmp_path: Path, run_spec: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(specs=(run_spec, run_spec.model_copy(update={"seed": 7})))
    there = executor.places.checkpoints / branch_file(job.named)
    assert not executor.has_branched(job)
    there.parent.mkdir(parents=True)
    there.touch()
    assert executor.has_branched(job)  # on a disk that all nodes see
    store = executor.store = Store((tmp_path / "store").as_uri())
    monkeypatch.setattr("sixnd.sweeps.executors.ray.LOOK_EVERY_S", 0.2)
    assert not executor.has_branched(job)
    store.put(there, f"checkpoints/{branch_file(job.named)}")
    assert not executor.has_branched(job)
    time.sleep(0.25)
    assert executor.has_branched(job)
    executor.asked.clear()
    monkeypatch.setattr(store.fs, "exists", MagicMock(side_effect=OSError("out of reach")))
    assert not executor.has_branched(job)


def test_workers_of_one_node_have_folders_of_their_own(tmp_path: Path) -> None:
    first, held = worker_folder(tmp_path / "cache")
    second, _held_too = worker_folder(tmp_path / "cache")
    assert first != second and first.is_dir()
    held.release()  # the worker is gone
    (first / "checkpoints").mkdir()
    third, _ = worker_folder(tmp_path / "cache")
    assert not first.exists() and second.is_dir() and third.is_dir()


def test_the_desk_passes_on_each_progress_once_and_the_request_to_stop() -> None:
    desk = Desk()
    assert desk.report("a", {"tokens": 1}) is False
    assert desk.report("a", {"tokens": 2}) is False
    assert desk.heard() == {"a": {"tokens": 2}} and desk.heard() == {}
    desk.stop()
    assert desk.report("a", None) is True


@pytest.mark.parametrize(
    ("gpus", "store", "known", "stacked"),
    [(1.0, None, 3, 3), (1.0, None, None, MOST_STACKED), (0.5, None, 3, 1), (0.0, None, None, 1), (1.0, "s", 3, 3)],
)
def test_runs_are_stacked_as_the_gpu_holds_them(
    gpus: float, store: str | None, known: int | None, stacked: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIXND_CORPORA", str(tmp_path))
    monkeypatch.setattr("sixnd.sweeps.executors.ray.connect", lambda _: MagicMock())
    folder = None if store is None else (tmp_path / store).as_uri()
    executor = RayExecutor(places_in(tmp_path), gpus_per_run=gpus, store=folder, most_stacked=known)
    assert executor.most_stacked == stacked


def test_ray_is_asked_for_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIXND_CORPORA", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_USAGE_STATS_ENABLED", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):
        monkeypatch.setenv(name, "kept")  # what the executor sets is undone with it
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SpecError, match=r"pip install 'sixnd\[ray\]'"):
        RayExecutor(places_in(tmp_path), address="local")
