"""What a sweep costs beside its training steps: the workers' CPU-seconds, the driver's memory, and large plans and ledgers.

    python benchmarks/sweep_overhead.py              # 40 runs of the demo's sizes: about ten minutes on two cores
    python benchmarks/sweep_overhead.py --no-sweep   # the plan of 10,000 runs and the ledger of 100,000 rows alone

Compilation caches are cold. The share counts everything a worker does, from its start: imports,
compilation, evaluation, checkpoints. Exits 1 where a target is missed. Linux: processes are read from /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sixnd.sweeps.ledger.schema import COLUMNS
from sixnd.sweeps.ledger.store import FILE, Ledger

STEPS_SHARE, DRIVER_MB, PLAN_S, STATUS_S, FORECAST = 0.88, 150, 5.0, 1.0, 0.25
N_RUNS, N_ROWS = 10_000, 100_000
COOLDOWN = 0.2  # of each run; the rest is shared by the runs of one trunk
TICK = os.sysconf("SC_CLK_TCK")
Checks = list[tuple[str, str, bool]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-sweep", action="store_true", help="leave the 40 runs out")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        environment = os.environ | {
            "TORCHINDUCTOR_CACHE_DIR": f"{root}/compiled",
            "SIXND_CORPORA": f"{root}/corpora",
            "XDG_CACHE_HOME": f"{root}/cache",
        }
        sixnd(["corpus", "build", "demo"], environment)
        checks = [*large_plan(root, environment), *large_ledger(root, environment)]
        if not options.no_sweep:
            checks += sweep(root, environment)
    for name, value, held in checks:
        print(f"{name:64} {value:>10}  {'met' if held else 'MISSED'}")
    print("sweep_overhead: " + ", ".join(f"{name.split(',')[0]} {value}" for name, value, _ in checks), end="")
    print(f"; {os.cpu_count()} cores")
    return 0 if all(held for _, _, held in checks) else 1


def sixnd(arguments: list[str], environment: dict[str, str]) -> tuple[float, str]:
    """Seconds of a command, and what it printed."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "sixnd.sweeps.cli", *arguments]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return time.perf_counter() - start, done.stdout


def large_plan(root: Path, environment: dict[str, str]) -> Checks:
    """100 models x 20 D x 5 seeds, planned twice: the first time the machine's speed is probed."""
    shapes = [[layers, width] for layers in range(1, 11) for width in range(32, 352, 32)]
    tokens = [204_800 + 102_400 * column for column in range(20)]
    spec = root / "large.toml"
    spec.write_text(f'name = "large"\ncorpus = "demo"\nshapes = {shapes}\ntokens = {tokens}\nseeds = [0, 1, 2, 3, 4]\n')
    arguments = ["plan", str(spec), "--json", str(root / "large.json")]
    first, _ = sixnd(arguments, environment)
    again = statistics.median(sixnd(arguments, environment)[0] for _ in range(3))
    n_runs = len(json.loads((root / "large.json").read_text())["runs"])
    print(f"plan of {n_runs:,} runs: {first:.1f} s with a probe of the machine, {again:.1f} s without", flush=True)
    return [(f"plan of {N_RUNS:,} runs, under {PLAN_S:.0f} s", f"{again:.1f} s", n_runs == N_RUNS and again < PLAN_S)]


def large_ledger(root: Path, environment: dict[str, str]) -> Checks:
    """`sixnd status` on a ledger of 100,000 made-up rows, half of them done, as a whole command."""
    fill(root / "long" / FILE)
    seconds = statistics.median(sixnd(["status", str(root / "long")], environment)[0] for _ in range(5))
    return [(f"status of {N_ROWS:,} rows, under {STATUS_S:.0f} s", f"{seconds:.2f} s", seconds < STATUS_S)]


def fill(path: Path) -> None:
    """50 N x 50 D x 40 seeds."""
    ledger = Ledger(path)
    columns = dict.fromkeys(COLUMNS) | {
        "spec": "{}",
        "corpus": "made-up",
        "batch_tokens": 2048,
        "lr": 0.01,
        "tuned": 0,
        "attempts": 1,
        "n_layers": 2,
        "d_model": 64,
        "curve": json.dumps([[2**k * 1024, 5.0, 0.01] for k in range(12)]),
    }
    rows = []
    for n in range(50):
        for d in range(50):
            N, D = 20_000 * (n + 1), 500_000 * (d + 1)
            cell = {
                "N_total": N,
                "N_non_embedding": N,
                "N_matmul": N,
                "D": D,
                "C_6nd": 6.0 * N * D,
                "C_exact": 6.0 * N * D,
            }
            for seed in range(40):
                done = {"state": "done", "test_loss": 3.0, "wall_s": 10.0} if seed < 20 else {"state": "planned"}
                rows.append(columns | cell | done | {"key": f"{n}-{d}-{seed}", "seed": seed})
    marks = ", ".join(f":{name}" for name in COLUMNS)
    with ledger.connection as connection:
        connection.executemany(f"INSERT INTO runs ({', '.join(COLUMNS)}) VALUES ({marks})", rows)
    ledger.close()
    assert len(rows) == N_ROWS


def sweep(root: Path, environment: dict[str, str]) -> Checks:
    """40 runs: the demo's grid with two seeds, on as many workers as there are cores."""
    spec = ["demo", "seeds=[0,1]", "--out", str(root / "demo")]
    sixnd(["plan", *spec, "--json", str(root / "plan.json")], environment)
    forecast = json.loads((root / "plan.json").read_text())["forecast"]["makespan_s"]
    command = [sys.executable, "-m", "sixnd.sweeps.cli", "run", *spec]
    fresh = environment | {"SIXND_CORPORA": f"{root}/fresh"}  # the driver is to have its corpus built, too
    driver = subprocess.Popen(command, env=fresh, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    worker_cpu, driver_mb, training = watch(driver)
    rows = [json.loads(line) for line in (root / "demo" / "runs.jsonl").read_text().splitlines()]
    share = seconds_in_steps(rows) / worker_cpu
    off = forecast / training - 1
    print(f"40 runs: workers {worker_cpu:.0f} CPU-s, training {training:.0f} s, forecast {forecast:.0f} s", flush=True)
    return [
        ("40 runs done", str(sum(row["state"] == "done" for row in rows)), len(rows) == 40),
        (f"workers' CPU-seconds in steps, at least {STEPS_SHARE:.0%}", f"{share:.1%}", share >= STEPS_SHARE),
        (
            f"driver's peak memory, corpus built by it, under {DRIVER_MB} MB",
            f"{driver_mb:.0f} MB",
            driver_mb < DRIVER_MB,
        ),
        (f"forecast of the plan, within {FORECAST:.0%}", f"{off:+.1%}", abs(off) <= FORECAST),
    ]


def watch(driver: subprocess.Popen[str]) -> tuple[float, float, float]:
    """CPU-seconds of all workers, peak memory of the driver in MB, and seconds, all from the first worker to the last one's end."""
    cpu: dict[int, float] = {}
    peak_mb, first, last = 0.0, 0.0, 0.0
    while driver.poll() is None:
        workers = [pid for pid in children(driver.pid) if b"spawn_main" in cmdline(pid)]
        for pid in workers:
            cpu[pid] = max(cpu.get(pid, 0.0), cpu_seconds(pid))
        if workers:
            last = time.perf_counter()
            first = first or last
            peak_mb = max(peak_mb, peak_memory_mb(driver.pid))
        time.sleep(0.2)
    if driver.returncode:
        raise SystemExit(f"sixnd run ended with exit code {driver.returncode}")
    return sum(cpu.values()), peak_mb, last - first


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def cpu_seconds(pid: int) -> float:
    """Of the process and of what it waited for, such as compilers."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(ticks) for ticks in fields[11:15]) / TICK


def peak_memory_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def seconds_in_steps(rows: list[dict[str, float]]) -> float:
    """Each trunk is trained once, and a cooldown for every D."""
    seconds = 0.0
    for trunk in {(row["N_total"], row["seed"]) for row in rows}:
        mine = [row for row in rows if (row["N_total"], row["seed"]) == trunk]
        ends = [row["D"] for row in mine]
        trained = (1 - COOLDOWN) * max(ends) + COOLDOWN * sum(ends)
        seconds += trained / statistics.median(row["tokens_per_s"] for row in mine)
    return seconds


if __name__ == "__main__":
    sys.exit(main())
