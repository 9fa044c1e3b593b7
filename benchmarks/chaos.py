"""kill -9 of the driver at random moments of a demo, restarted each time, against the rows of an undisturbed one.

    python benchmarks/chaos.py                             # both sweeps, about ten minutes on two cores
    python benchmarks/chaos.py --undisturbed sweeps-out/demo --kills 5 --seed 1

Exits 1 where a row is lost, doubled, or differs in anything but its times.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TIMES = ("tokens_per_s", "wall_s", "finished_at", "attempts")
EARLIEST_S, LATEST_S = 15, 50  # after the start of the driver


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--undisturbed", type=Path, help="folder of a finished demo on this machine")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, kills = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = options.undisturbed or Path(folder) / "undisturbed"
        if options.undisturbed is None:
            _start(undisturbed).wait()
        disturbed = Path(folder) / "disturbed"
        print(f"{'kill':>4} {'after':>7} {'runs done':>10}", flush=True)
        while kills < options.kills:
            process, wait = _start(disturbed), rng.uniform(EARLIEST_S, LATEST_S)
            try:
                process.wait(timeout=wait)
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
                print(f"{kills:4} {wait:6.1f}s {_done(disturbed):10}", flush=True)
        started = time.perf_counter()
        _start(disturbed).wait()
        print(f"last sitting: {time.perf_counter() - started:.0f} s")
        expected, found = _rows(undisturbed), _rows(disturbed)
    keys = [row["key"] for row in found]
    lost, doubled = len({row["key"] for row in expected} - set(keys)), len(keys) - len(set(keys))
    by_key = {row["key"]: row for row in expected}
    differing = sum(row != by_key.get(row["key"]) for row in found)
    print(f"chaos: {kills} kills, {len(found)} rows: {lost} lost, {doubled} doubled, {differing} differing")
    return 1 if lost or doubled or differing or kills < options.kills else 0


def _start(out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "sixnd.sweeps.cli", "demo", "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _rows(out: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (out / "runs.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def _done(out: Path) -> int:
    import sqlite3

    if not (out / "ledger.sqlite").exists():
        return 0
    with sqlite3.connect(f"file:{out / 'ledger.sqlite'}?mode=ro", uri=True) as connection:
        return int(connection.execute("SELECT count(*) FROM runs WHERE state = 'done'").fetchone()[0])


if __name__ == "__main__":
    sys.exit(main())
