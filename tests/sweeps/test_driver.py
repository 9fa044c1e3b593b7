"""The driver: complete, restartable after any kill, and the same rows whatever happened on the way."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sixnd.sweeps.driver import run_sweep
from sixnd.sweeps.executors.local import LocalExecutor
from sixnd.sweeps.ledger.store import FILE, open_ledger
from sixnd.sweeps.live import read_live
from sixnd.sweeps.lock import driver_at_work
from sixnd.sweeps.planning.plan import make_plan
from sixnd.sweeps.spec import SpecError
from sixnd.train.corpus.store import Corpus

from tests.sweeps.sweep_child import small_sweep

ROOT = Path(__file__).parents[2]
NOT_COMPARED = ("tokens_per_s", "wall_s", "finished_at", "attempts")


def rows(out: Path) -> list[dict[str, Any]]:
    ledger = open_ledger(out)
    found = ledger.rows()
    ledger.close()
    return [{name: value for name, value in row.items() if name not in NOT_COMPARED} for row in found]


def start(corpus: Corpus, out: Path, hours: float | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.sweeps.sweep_child", str(corpus.path.parent), corpus.hash, str(out)]
    command += [] if hours is None else [str(hours)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def until_it_trains(out: Path, steps: int = 0) -> None:
    """Returns once a run has trained so many tokens."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if any(progress.tokens >= steps for progress in read_live(out / "live").values()):
            return
        time.sleep(0.02)
    raise AssertionError("no run has trained")


def workers(driver: int) -> list[int]:
    children = Path(f"/proc/{driver}/task/{driver}/children")
    return [int(pid) for pid in children.read_text().split()] if children.exists() else []


def alive(pid: int) -> bool:
    """Whether the process runs: one that ended and waits for an init to collect it does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="module")
def finished(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed sweep; no test changes it."""
    out = tmp_path_factory.mktemp("undisturbed")
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    process = start(corpus, out)
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert not list((out / "checkpoints").glob("*")), "branch points of finished trunks are removed"
    return out


@pytest.fixture(scope="module")
def undisturbed(finished: Path) -> list[dict[str, Any]]:
    return rows(finished)


def test_every_run_is_there_once(undisturbed: list[dict[str, Any]]) -> None:
    assert len(undisturbed) == 12
    assert {row["state"] for row in undisturbed} == {"done"}
    assert all(row["test_loss"] > 0 for row in undisturbed)


def test_killed_drivers_lose_and_double_nothing(
    corpus: Corpus, tmp_path: Path, undisturbed: list[dict[str, Any]]
) -> None:
    rng = random.Random(int(os.environ.get("SIXND_TEST_SEED", "0")))
    kills = 0
    while kills < 4:
        process = start(corpus, tmp_path)
        try:
            process.communicate(timeout=rng.uniform(2.0, 6.0))
            break  # it finished first
        except subprocess.TimeoutExpired:
            orphans = workers(process.pid)
            process.kill()
            process.communicate()
            kills += 1
            deadline = time.monotonic() + 10
            while (left := [pid for pid in orphans if alive(pid)]) and time.monotonic() < deadline:
                time.sleep(0.1)
            assert not left, "workers outlive their driver"
    assert kills, "the sweep was never interrupted"
    final = start(corpus, tmp_path)
    final.communicate(timeout=120)
    assert final.returncode == 0
    assert rows(tmp_path) == undisturbed


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds workers through /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_ended_worker_costs_only_a_retry(
    corpus: Corpus, tmp_path: Path, undisturbed: list[dict[str, Any]], number: signal.Signals
) -> None:
    process = start(corpus, tmp_path)
    until_it_trains(tmp_path)
    os.kill(random.Random(0).choice(workers(process.pid)[-2:]), number)
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert rows(tmp_path) == undisturbed
    ledger = open_ledger(tmp_path)
    assert {attempt["outcome"] for attempt in ledger.attempts()} > {"done"}, "the lost attempt is on record"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_once_it_checkpoints_and_says_how_to_go_on(
    corpus: Corpus, tmp_path: Path, undisturbed: list[dict[str, Any]], number: signal.Signals
) -> None:
    process = start(corpus, tmp_path)
    until_it_trains(tmp_path, 800)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "the same command goes on" in printed and "stopped at once" not in printed
    found = rows(tmp_path)
    assert not [row for row in found if row["state"] == "running"]
    assert list((tmp_path / "checkpoints").glob("**/*.pt")), "where the runs stood is kept"
    again = start(corpus, tmp_path)
    again.communicate(timeout=120)
    assert rows(tmp_path) == undisturbed


def test_asked_twice_it_ends_at_once(corpus: Corpus, tmp_path: Path, undisturbed: list[dict[str, Any]]) -> None:
    process = start(corpus, tmp_path)
    until_it_trains(tmp_path)
    pids = workers(process.pid)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    printed, _ = process.communicate(timeout=30)
    assert process.returncode == 1 and "the same command goes on" in printed
    deadline = time.monotonic() + 10
    while (left := [pid for pid in pids if alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left, "workers outlive their driver"
    again = start(corpus, tmp_path)
    again.communicate(timeout=120)
    assert rows(tmp_path) == undisturbed


def test_a_spent_budget_censors_what_is_left(corpus: Corpus, tmp_path: Path, undisturbed: list[dict[str, Any]]) -> None:
    capped = start(corpus, tmp_path, hours=6 / 3600)
    capped.communicate(timeout=120)
    assert capped.returncode == 0, "a spent budget is no failure"
    ended = [row for row in rows(tmp_path) if row["state"] == "censored"]
    assert ended and all("budget" in row["error"] and row["test_loss"] is None for row in ended)
    still = start(corpus, tmp_path, hours=6 / 3600)
    still.communicate(timeout=120)
    assert [row["state"] for row in rows(tmp_path)].count("censored") == len(ended), "what was spent stays spent"
    more = start(corpus, tmp_path)
    more.communicate(timeout=120)
    assert rows(tmp_path) == undisturbed


def test_a_finished_sweep_trains_nothing(corpus: Corpus, finished: Path) -> None:
    plan = make_plan(small_sweep(), corpus)
    before = (finished / FILE).read_bytes()
    begun = time.monotonic()
    run_sweep(small_sweep(), plan, finished, corpus.path.parent, partial(LocalExecutor, 2), {})
    assert time.monotonic() - begun < 2
    assert (finished / FILE).read_bytes() == before


def test_a_second_driver_is_refused_by_name(corpus: Corpus, tmp_path: Path) -> None:
    process = start(corpus, tmp_path)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (tmp_path / FILE).exists():
        time.sleep(0.02)
    assert driver_at_work(tmp_path)
    try:
        with pytest.raises(SpecError, match=rf"process {process.pid} on .* is running this sweep"):
            run_sweep(
                small_sweep(),
                make_plan(small_sweep(), corpus),
                tmp_path,
                corpus.path.parent,
                partial(LocalExecutor, 1),
                {},
            )
    finally:
        process.kill()
        process.communicate()


def test_other_settings_do_not_join_a_ledger(corpus: Corpus, finished: Path) -> None:
    before = rows(finished)
    changed = small_sweep().model_copy(update={"train": small_sweep().train.model_copy(update={"lr": 0.001})})
    with pytest.raises(SpecError, match=r"train\.lr = 'auto', not 0\.001"):
        run_sweep(changed, make_plan(changed, corpus), finished, corpus.path.parent, partial(LocalExecutor, 1), {})
    assert rows(finished) == before


def test_a_run_that_raises_is_recorded_and_the_others_go_on(corpus: Corpus, tmp_path: Path) -> None:
    """The corpus is damaged between plan and training."""
    import shutil

    corpora = tmp_path / "corpora"
    shutil.copytree(corpus.path, corpora / corpus.hash)
    plan = make_plan(small_sweep(), corpus)
    (corpora / corpus.hash / "tokenizer.json").unlink()
    run_sweep(small_sweep(), plan, tmp_path / "out", corpora, partial(LocalExecutor, 1), {})
    found = rows(tmp_path / "out")
    assert {row["state"] for row in found} == {"failed"}
    assert all("tokenizer.json" in row["error"] for row in found)
