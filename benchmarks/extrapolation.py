"""Predictive intervals beyond the data, on published tables and simulated grids, on one thread: `python benchmarks/extrapolation.py [--quick]`.

Each table of ../shared/reference is fitted up to a tenth of its largest compute (the OLMo ladder also as its authors did: on the small
runs), and the rest predicted; beside it the usual band, a pairs bootstrap of the Chinchilla law with residual noise. The interval score
is that of Gneiting & Raftery 2007 in log loss: width + 40 times the miss. The simulated grids have a known law and normal noise, and
one new run at ten times their largest compute (400 repetitions for each size; --quick: 40). Exits with 1 where a target is missed.
"""

# ruff: noqa: E402 -- the thread counts must be set before numpy is imported
from __future__ import annotations

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import sys
import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sixnd.analysis.forecasts.compare import interval_score
from sixnd.analysis.forecasts.forecast import forecast
from sixnd.analysis.laws import Array, Chinchilla, Coupled, Law, Rows, Tied
from sixnd.analysis.solver.newton import Mask
from sixnd.analysis.solver.optimize import global_minimum
from sixnd.analysis.uncertainty.intervals import bootstrap

REFERENCE = Path(__file__).parents[1].parent / "shared" / "reference"
LAWS: tuple[Law, ...] = (Chinchilla(), Tied(), Coupled())
DELTA = 1e-3
RESAMPLES = 400
# Name, A, B, E, alpha, beta, and the standard deviation of the noise in log L: those of benchmarks/coverage.py.
CASES = (
    ("Besiroglu et al. 2024", (482.01, 2085.43, 1.81686, 0.34781, 0.36585), 0.01),
    ("Hoffmann et al. 2022", (406.4, 410.7, 1.69, 0.34, 0.28), 0.005),
    ("steep in D", (150.0, 20000.0, 1.9, 0.28, 0.48), 0.002),
)
SPLITS = np.array([0.25, 0.5, 0.75])  # of the tenfold compute, the part of it that the new run spends on N, in logs


@dataclass(frozen=True)
class Table:
    """Runs of one table, (n,), and which of them are fitted."""

    name: str
    N: Array
    D: Array
    loss: Array
    fitted: Mask


@dataclass(frozen=True)
class Score:
    """Of 95 % intervals of log L on the runs predicted, and of the point forecast."""

    coverage: float
    interval: float
    error: float


def tables() -> Iterator[Table]:
    chinchilla = pd.read_csv(REFERENCE / "chinchilla_epoch.csv").query("in_published_fit == 1")
    yield table("chinchilla_epoch", chinchilla)
    olmo = pd.read_csv(REFERENCE / "olmo_ladder_c4.csv")
    ladder = olmo[olmo["mode"].isin(["train", "eval"])]
    yield table("olmo, train -> eval", ladder, ladder["mode"].to_numpy() == "train")
    yield table("olmo, by C", olmo)
    for name, runs in pd.read_csv(REFERENCE / "gadre_104.csv").groupby("train_set"):
        yield table(f"gadre {name}", runs)
    for name, runs in pd.read_csv(REFERENCE / "porian_isoflop.csv").groupby("config"):
        yield table(f"porian {name}", runs)


def table(name: str, runs: pd.DataFrame, fitted: Mask | None = None) -> Table:
    N, D, loss, C = (runs[column].to_numpy(dtype=np.float64) for column in ("N", "D", "loss", "C"))
    tenth = C.max() / 10 * (1 + 1e-9)
    return Table(name, N, D, loss, tenth >= C if fitted is None else fitted)


def scored(runs: Table, centre: Array, low: Array, high: Array) -> Score:
    """Of the ends of 95 % intervals and the point forecasts of the runs that were not fitted, in log loss, each (k,)."""
    y = np.log(runs.loss[~runs.fitted])
    return Score(
        coverage=float(np.mean((low <= y) & (y <= high))),
        interval=float(interval_score(y, low, high, 0.95).mean()),
        error=float(np.median(np.abs(y - centre))),
    )


def ours(runs: Table) -> Score:
    rows = Rows.of(runs.N[runs.fitted], runs.D[runs.fitted], runs.loss[runs.fitted])
    ends = forecast(rows, LAWS).interval(runs.N[~runs.fitted], runs.D[~runs.fitted])
    return scored(runs, *(np.log(end) for end in ends))


def usual(runs: Table) -> Score:
    """Percentiles of the refitted curves, each with a residual drawn at random added."""
    law, rng = LAWS[0], np.random.default_rng(0)
    N, D = runs.N[~runs.fitted], runs.D[~runs.fitted]
    rows = Rows.of(runs.N[runs.fitted], runs.D[runs.fitted], runs.loss[runs.fitted])
    best = global_minimum(law, rows, DELTA)
    refits = law.natural(bootstrap(law, rows, best, delta=DELTA, count=RESAMPLES, rng=rng), rows)
    residuals = rows.y - law.shares(best.theta[None], rows).f[0]
    draws = np.log(law.loss(refits, N, D)) + rng.choice(residuals, (RESAMPLES, len(N)))
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    return scored(runs, np.log(law.loss(law.natural(best.theta[None], rows), N, D)[0]), low, high)


def extrapolate() -> tuple[str, bool]:
    """Prints a line for each table; the summary and whether all targets are met."""
    if not REFERENCE.is_dir():
        print("skipped: no published run tables (../shared/reference) beside this checkout")
        return "no published tables", True
    print(
        f"{'':48}{'runs':>5} {'new':>4} | {'coverage':>8} {'score':>6} {'error':>6} | pairs bootstrap + residual noise"
    )
    rows = []
    for runs in tables():
        start = time.perf_counter()
        mine = ours(runs)
        seconds = time.perf_counter() - start
        theirs = usual(runs)
        rows.append((*astuple(mine), *astuple(theirs)))
        print(f"{runs.name:48}{runs.fitted.sum():5d} {(~runs.fitted).sum():4d} |", end=" ")
        print(f"{mine.coverage:8.2f} {mine.interval:6.3f} {mine.error:6.2%} |", end=" ")
        print(f"{theirs.coverage:8.2f} {theirs.interval:6.3f} {theirs.error:6.2%}   {seconds:.2f} s", flush=True)
        if runs.name == "olmo, train -> eval":
            olmo = mine.coverage
    scores = np.array(rows)
    mean, median, worst = scores.mean(axis=0), np.median(scores, axis=0), scores[:, 0].min()
    better = 1 - mean[1] / mean[4]
    print(
        f"{'mean of the tables (median of the errors)':58} | {mean[0]:8.3f} {mean[1]:6.3f} {median[2]:6.2%} |", end=" "
    )
    print(f"{mean[3]:8.3f} {mean[4]:6.3f} {median[5]:6.2%}")
    met = mean[0] >= 0.92 and worst >= 0.6 and better >= 0.4 and median[2] <= 0.02 and olmo == 1.0
    summary = f"{len(scores)} tables: coverage {mean[0]:.3f} (worst {worst:.2f}), score {mean[1]:.3f}, {better:.0%} better than"
    return (
        f"{summary} pairs + noise, error {median[2]:.2%}, OLMo 7B and 13B {'inside' if olmo == 1.0 else 'OUTSIDE'}",
        met,
    )


def simulate(side: int, repetitions: int) -> float:
    """The share of new runs at ten times the largest compute of a side x side grid inside their 95 % interval."""
    rng, inside = np.random.default_rng(side), {name: [0] for name, *_ in CASES}
    N, D = (axis.ravel() for axis in np.meshgrid(np.geomspace(2e7, 2e9, side), np.geomspace(4e8, 4e10, side)))
    for repetition in range(repetitions):
        name, params, noise = CASES[repetition % len(CASES)]
        split = rng.choice(SPLITS)
        new = np.append(N, N.max() * 10**split), np.append(D, D.max() * 10 ** (1 - split))
        loss = LAWS[0].loss(np.array([params]), *new)[0] * np.exp(noise * rng.standard_normal(len(N) + 1))
        _, low, high = forecast(Rows.of(N, D, loss[:-1]), LAWS).interval(new[0][-1], new[1][-1])
        inside[name].append(int(low <= loss[-1] <= high))
    cases = ", ".join(f"{name} ({noise:.1%} noise) {np.mean(inside[name][1:]):.3f}" for name, _, noise in CASES)
    covered = float(np.mean([hit for hits in inside.values() for hit in hits[1:]]))
    print(
        f"simulated {side}x{side}, {repetitions} repetitions: coverage {covered:.3f} at 10 x compute: {cases}",
        flush=True,
    )
    return covered


def main() -> int:
    summary, met = extrapolate()
    repetitions = 40 if "--quick" in sys.argv[1:] else 400
    covered = [simulate(side, repetitions) for side in (5, 8)]
    met &= all(0.90 <= coverage <= 0.98 for coverage in covered)
    print(
        f"extrapolation: {summary}; simulated 5x5 {covered[0]:.3f}, 8x8 {covered[1]:.3f}: targets {'met' if met else 'MISSED'}"
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
