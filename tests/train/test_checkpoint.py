"""Exact resume after a stop at any step; which checkpoints exist, which are used, and which are refused."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sixnd.models.transformer import Transformer
from sixnd.train.checkpoint import (
    Checkpoints,
    TrainState,
    atomic_file,
    read_checkpoint,
    step_of,
    write_checkpoint,
)
from sixnd.train.divergence import LossWatch, Memory
from sixnd.train.loop import train
from sixnd.train.optimizer import build_optimizer
from sixnd.train.progress import Progress
from sixnd.train.record import CurvePoint, RunRecord
from sixnd.train.spec import RunSpec

from tests.train.stops import quiet, result, stop_before_step

pytestmark = pytest.mark.usefixtures("curve_of_tiny_runs")

BRANCH = 32  # of the 40 steps of run_spec
RANDOM_STEPS = random.Random(0).sample(range(1, BRANCH), 3) + random.Random(1).sample(range(BRANCH + 1, 40), 2)


def interrupt(spec: RunSpec, corpora: Path, folder: Path, step: int, seconds: float = 0) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_before_step(patch, spec, step)
        train(spec, corpora=corpora, checkpoints=folder, checkpoint_seconds=seconds, say=quiet)


def fresh_state(spec: RunSpec) -> TrainState:
    model = Transformer(spec.model)
    model.initialize(spec.seed)
    return TrainState(model, build_optimizer(model, spec.optimizer), LossWatch.of(spec))


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def straight(run_spec: RunSpec, corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunRecord, Path]:
    """A run that nothing stopped, and its final weights."""
    weights = tmp_path_factory.mktemp("straight") / "weights.pt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHDYNAMO_DISABLE", "1")
        return train(run_spec, corpora=corpora, weights=weights, say=quiet), weights


def assert_equals(record: RunRecord, weights: Path, straight: tuple[RunRecord, Path]) -> None:
    assert result(record) == result(straight[0])
    mine, theirs = (torch.load(path, weights_only=True) for path in (weights, straight[1]))
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("step", [1, BRANCH, *RANDOM_STEPS])
def test_stopped_at_any_step_it_ends_as_if_it_had_not_been(
    step: int, run_spec: RunSpec, corpora: Path, tmp_path: Path, straight: tuple[RunRecord, Path]
) -> None:
    assert run_spec.branch_step == BRANCH and run_spec.n_steps == 40
    interrupt(run_spec, corpora, tmp_path, step)
    weights, heard = tmp_path / "weights.pt", list[Progress]()
    record = train(run_spec, corpora=corpora, checkpoints=tmp_path, weights=weights, listener=heard.append, say=quiet)
    assert heard[0].tokens > step * run_spec.batch_tokens, "it went on from where it was stopped"
    assert_equals(record, weights, straight)


def test_stopped_twice_with_steps_lost_it_ends_the_same(
    run_spec: RunSpec, corpora: Path, tmp_path: Path, straight: tuple[RunRecord, Path]
) -> None:
    """Checkpoints at intervals: what came after the last one is trained again."""
    interrupt(run_spec, corpora, tmp_path, 10)
    interrupt(run_spec, corpora, tmp_path, 25, seconds=3600)
    state = fresh_state(run_spec)
    Checkpoints(tmp_path, run_spec).load_newest(state)
    assert state.step == 10
    interrupt(run_spec, corpora, tmp_path, 36)
    weights = tmp_path / "weights.pt"
    assert_equals(train(run_spec, corpora=corpora, checkpoints=tmp_path, weights=weights, say=quiet), weights, straight)


KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
from sixnd.train import checkpoint, curve, loop
curve.CURVE_FIRST_TOKENS = 256
from sixnd.train.spec import RunSpec
fsync, spec = os.fsync, RunSpec.model_validate_json(sys.argv[1])
def killing_fsync(fd):
    if "000000037.pt" in os.readlink(f"/proc/self/fd/{fd}"):
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(fd)
os.fsync = killing_fsync
loop.train(spec, corpora=Path(sys.argv[2]), checkpoints=Path(sys.argv[3]), checkpoint_seconds=0, listener=lambda p: None)
"""


def test_a_checkpoint_holds_all_that_training_changed(run_spec: RunSpec, tmp_path: Path) -> None:
    """Every part of it differs from that of a fresh state, and comes back as it was."""
    state, kept = fresh_state(run_spec), Checkpoints(tmp_path, run_spec)
    state.model(torch.zeros(1, 16, dtype=torch.int64), torch.ones(1, 16, dtype=torch.int64), torch.float32)[
        0
    ].mean().backward()
    state.optimizer.step()
    state.step = 2
    for step, loss in ((1, 5.5), (2, 9.5)):
        state.watch.note(step, torch.tensor(loss), torch.tensor(1.0))
    state.watch.look()
    state.watch.memory.high_steps = 7
    state.curve = {1: CurvePoint(64, 5.25, 0.125), 2: CurvePoint(128, 5.0, None)}
    kept.save(state)
    back = fresh_state(run_spec)
    kept.load_newest(back)
    assert (back.step, back.curve, back.watch.memory) == (2, state.curve, Memory(5.5, 9.5, 7))
    saved, loaded = state.state_dict(), back.state_dict()
    assert all(torch.equal(saved["model"][name], loaded["model"][name]) for name in saved["model"])
    moments = [s["optimizer"]["state"] for s in (saved, loaded)]
    assert moments[0] and all(
        torch.equal(moments[0][i][k], moments[1][i][k]) for i in moments[0] for k in moments[0][i]
    )


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to know which file is written")
def test_killed_while_a_checkpoint_of_the_cooldown_is_written(
    run_spec: RunSpec, corpora: Path, tmp_path: Path, straight: tuple[RunRecord, Path]
) -> None:
    child = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_WRITING, run_spec.model_dump_json(), str(corpora), str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert child.returncode == -signal.SIGKILL
    assert [path for path in tmp_path.rglob("*.tmp") if "000000037" in path.name]
    state = fresh_state(run_spec)
    Checkpoints(tmp_path, run_spec).load_newest(state)
    assert state.step == 36
    assert not list(tmp_path.rglob("*.tmp")), "what a dead process had begun to write is removed"
    weights = tmp_path / "weights.pt"
    assert_equals(train(run_spec, corpora=corpora, checkpoints=tmp_path, weights=weights, say=quiet), weights, straight)


@pytest.mark.parametrize("step", [20, 37])
@pytest.mark.parametrize("harm", ["truncated", "empty", "bit flipped"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    step: int,
    harm: str,
    run_spec: RunSpec,
    corpora: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    interrupt(run_spec, corpora, tmp_path, step)
    kept = Checkpoints(tmp_path, run_spec)
    newest = kept.path(step)
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes({"truncated": content[:1000], "empty": b"", "bit flipped": content}[harm])
    capsys.readouterr()
    state = fresh_state(run_spec)
    kept.load_newest(state)
    assert state.step == step - 1
    (line,) = capsys.readouterr().err.splitlines()
    assert str(newest) in line and "using an older one" in line


def test_where_every_checkpoint_is_damaged_it_starts_anew(
    run_spec: RunSpec, corpora: Path, tmp_path: Path, straight: tuple[RunRecord, Path]
) -> None:
    interrupt(run_spec, corpora, tmp_path, 34)
    for path in tmp_path.rglob("*.pt"):
        path.write_bytes(path.read_bytes()[:-1])
    weights = tmp_path / "weights.pt"
    assert_equals(train(run_spec, corpora=corpora, checkpoints=tmp_path, weights=weights, say=quiet), weights, straight)
    kept = Checkpoints(tmp_path, run_spec)
    assert read_checkpoint(kept.path(BRANCH))["state"]["step"] == BRANCH, "the damaged branch point is written again"


@pytest.mark.parametrize("what", ["another format", "another spec", "an older sixnd", "not a tensor file"])
def test_a_checkpoint_of_another_kind_is_refused_by_name(
    what: str, run_spec: RunSpec, corpora: Path, tmp_path: Path
) -> None:
    interrupt(run_spec, corpora, tmp_path, 20)
    kept = Checkpoints(tmp_path, run_spec)
    newest = kept.path(20)
    if what == "another format":
        newest.write_bytes(newest.read_bytes().replace(b"sixnd checkpoint 1 ", b"sixnd checkpoint 9 ", 1))
        expected = "has format 9, this sixnd reads 1"
    elif what == "another spec":
        other = Checkpoints(tmp_path / "other", run_spec.model_copy(update={"seed": 1}))
        interrupt(other.spec, corpora, other.root, 20)
        other.path(20).replace(newest)
        expected = f"belongs to {other.spec.trunk_key}, not to {run_spec.trunk_key}"
    elif what == "an older sixnd":
        torch.save({"model": {}}, newest)
        expected = "is not a checkpoint of this sixnd"
    else:
        write_checkpoint(newest, {"key": Path})  # what weights_only does not load
        expected = "cannot be read by torch"
    said: list[str] = []
    state = fresh_state(run_spec)
    kept.load_newest(state, said.append)
    assert state.step == 19
    (line,) = said
    assert "\n" not in line and line.startswith(f"checkpoint {newest}: {expected}")


def test_what_is_on_disk_while_a_run_goes_and_after_it(run_spec: RunSpec, corpora: Path, tmp_path: Path) -> None:
    trunk, run = run_spec.trunk_key, run_spec.key
    interrupt(run_spec, corpora, tmp_path, 20)
    assert names(tmp_path) == [f"{trunk}/periodic-000000019.pt", f"{trunk}/periodic-000000020.pt"]
    interrupt(run_spec, corpora, tmp_path, 37)
    assert names(tmp_path) == [
        *[f"{trunk}/{run}/periodic-0000000{step}.pt" for step in (36, 37)],
        *[f"{trunk}/branch-0000000{BRANCH}.pt", f"{trunk}/periodic-000000030.pt", f"{trunk}/periodic-000000031.pt"],
    ]
    train(run_spec, corpora=corpora, checkpoints=tmp_path, say=quiet)
    assert names(tmp_path) == [f"{trunk}/branch-0000000{BRANCH}.pt"]


def test_a_run_neither_uses_nor_loses_what_a_longer_one_left_of_the_trunk(
    run_spec: RunSpec, corpora: Path, tmp_path: Path, straight: tuple[RunRecord, Path]
) -> None:
    longer = run_spec.model_copy(update={"tokens": 2 * run_spec.tokens})
    interrupt(longer, corpora, tmp_path, 50)
    weights = tmp_path / "weights.pt"
    record = train(run_spec, corpora=corpora, checkpoints=tmp_path, weights=weights, say=quiet)
    assert_equals(record, weights, straight)
    state = fresh_state(longer)
    Checkpoints(tmp_path, longer).load_newest(state)
    assert state.step == 50


def test_of_two_runs_on_a_trunk_the_later_one_keeps_its_own_newest_two(
    run_spec: RunSpec, corpora: Path, tmp_path: Path
) -> None:
    """Kept by step, the longer run's would crowd out every one of the shorter."""
    interrupt(run_spec.model_copy(update={"tokens": 2 * run_spec.tokens}), corpora, tmp_path, 50)
    interrupt(run_spec, corpora, tmp_path, 20)
    assert sorted(step_of(path) for path in tmp_path.rglob("*.pt")) == [19, 20]


def test_a_longer_run_does_not_use_the_cooldown_of_a_shorter_one(
    run_spec: RunSpec, corpora: Path, tmp_path: Path
) -> None:
    longer = run_spec.model_copy(update={"tokens": 2 * run_spec.tokens})
    interrupt(run_spec, corpora, tmp_path, 38)
    state, own = fresh_state(longer), fresh_state(run_spec)
    Checkpoints(tmp_path, longer).load_newest(state)
    Checkpoints(tmp_path, run_spec).load_newest(own)
    assert (state.step, own.step) == (BRANCH, 38)
    branched = train(longer, corpora=corpora, checkpoints=tmp_path, say=quiet)
    assert result(branched) == result(train(longer, corpora=corpora, say=quiet))


def test_without_a_cooldown_the_end_is_the_branch_point(run_spec: RunSpec, corpora: Path, tmp_path: Path) -> None:
    schedule = run_spec.schedule.model_copy(update={"cooldown": 0.0})
    shorter = run_spec.model_copy(update={"schedule": schedule})
    longer = shorter.model_copy(update={"tokens": shorter.tokens + 640})
    train(shorter, corpora=corpora, checkpoints=tmp_path, say=quiet)
    heard: list[Progress] = []
    branched = train(longer, corpora=corpora, checkpoints=tmp_path, listener=heard.append, say=quiet)
    assert len(heard) == 1, "ten steps were left"
    assert result(branched) == result(train(longer, corpora=corpora, say=quiet))


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="disk"), atomic_file(path) as file:
        file.write(b"half")
        raise OSError("disk full")
    assert names(tmp_path) == ["weights.pt"] and path.read_bytes() == b"old"


def test_temporary_files_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    path = tmp_path / "weights.pt"
    host = socket.gethostname()
    dead, alive, elsewhere = (
        path.with_name(f"weights.pt.{name}.tmp")
        for name in (f"{host}.{ended.pid}", f"{host}.1", f"elsewhere.{ended.pid}")
    )
    for temporary in (dead, alive, elsewhere):
        temporary.touch()
    with atomic_file(path) as file:
        file.write(b"whole")
    assert path.read_bytes() == b"whole"
    assert not dead.exists() and alive.exists() and elsewhere.exists()
