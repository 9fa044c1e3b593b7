"""How often 95 % intervals of a cover it, on simulated grids with known laws, on one thread: `python benchmarks/coverage.py [--quick]`.

400 repetitions of each case (--quick: 60): a full grid of runs under a known law with normal noise in log L, fitted at delta 1e-3. The other
methods are for comparison, on every sixteenth repetition. Exits with 1 where the default
(`resampling.default_bootstrap`) covers less than 93 or more than 97 % on a grid, all its cases together.
"""

# ruff: noqa: E402 -- the thread counts must be set before numpy is imported
from __future__ import annotations

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import sys
import time

import numpy as np
from scipy.stats import t
from sixnd.analysis.laws import Array, Chinchilla, Rows
from sixnd.analysis.solver.optimize import Optimum, global_minimum
from sixnd.analysis.uncertainty.intervals import bootstrap, ci95
from sixnd.analysis.uncertainty.profile import profile
from sixnd.analysis.uncertainty.quantities import quantities
from sixnd.analysis.uncertainty.resampling import (
    default_bootstrap,
    leverage,
    noise,
    refit_losses,
    residual_losses,
    wild_losses,
)

DELTA = 1e-3
RESAMPLES = 300
DEFAULT = "default bootstrap"
COMPARED = 16
# Name, A, B, E, alpha, beta, and the standard deviation of the noise in log L.
CASES = (
    ("Besiroglu et al. 2024", (482.01, 2085.43, 1.81686, 0.34781, 0.36585), 0.01),
    ("Hoffmann et al. 2022", (406.4, 410.7, 1.69, 0.34, 0.28), 0.005),
    ("steep in D", (150.0, 20000.0, 1.9, 0.28, 0.48), 0.002),
)
LAW = Chinchilla()


def exponent(theta: Array) -> Array:
    """a = beta/(alpha + beta) at theta (S, 5)."""
    share: Array = theta[:, 4] / (theta[:, 3] + theta[:, 4])
    return share


def default_interval(rows: Rows, best: Optimum, rng: np.random.Generator) -> dict[str, Array]:
    """95 % intervals of a by the default bootstrap, (2,): its percentiles, and its standard error times Student's t."""
    a = exponent(default_bootstrap(LAW, rows, best, loss=DELTA, count=RESAMPLES, rng=rng).theta)
    half = float(t.ppf(0.975, len(rows.y) - len(best.theta))) * float(a.std(ddof=1))
    return {DEFAULT: ci95(a), "its standard error, t": exponent(best.theta[None]) + np.array([-half, half])}


def other_intervals(rows: Rows, best: Optimum, rng: np.random.Generator) -> dict[str, Array]:
    """95 % intervals of a by the other methods, (2,)."""
    at = LAW.shares(best.theta[None], rows)
    fitted, raw = at.f[0], rows.y - at.f[0]
    half = raw / np.sqrt(1 - leverage(at.jacobian()[0].T))
    errors = noise(LAW, rows, best, DELTA)
    losses = {
        "residuals of the fit": residual_losses(rows, fitted, raw, RESAMPLES, rng),
        "the same, r/sqrt(1-h)": residual_losses(rows, fitted, half - half.mean(), RESAMPLES, rng),
        "residual, r/(1-h)": residual_losses(rows, fitted, errors, RESAMPLES, rng),
        "wild, r/(1-h)": wild_losses(rows, fitted, errors, RESAMPLES, rng),
    }
    pairs = ci95(exponent(bootstrap(LAW, rows, best, delta=DELTA, count=RESAMPLES, rng=rng)))
    quantity = next(quantity for quantity in quantities(LAW, 1e21) if quantity.name == "a")
    low, high = profile(LAW, rows, best, quantity, DELTA).interval
    return {
        "pairs, percentile": pairs,
        "pairs, basic": 2 * exponent(best.theta[None]) - pairs[::-1],
        **{name: ci95(exponent(refit_losses(LAW, rows, best, y, DELTA))) for name, y in losses.items()},
        "profile": np.array([-np.inf if low is None else low, np.inf if high is None else high]),
    }


def case(side: int, params: tuple[float, ...], sigma: float, repetitions: int, seed: int) -> dict[str, list[bool]]:
    """Whether each method's interval holds a, by repetition, for a side x side grid of runs."""
    N, D = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e10, side), np.geomspace(1e9, 3e11, side)))
    clean, truth = LAW.loss(np.array([params]), N, D)[0], params[4] / (params[3] + params[4])
    rng, others = np.random.default_rng(seed), np.random.default_rng(seed + 1000)
    hits: dict[str, list[bool]] = {}
    for repetition in range(repetitions):
        rows = Rows.of(N, D, clean * np.exp(sigma * rng.standard_normal(len(N))))
        best = global_minimum(LAW, rows, DELTA)
        found = default_interval(rows, best, rng)
        if repetition % COMPARED == 0:
            found |= other_intervals(rows, best, others)
        for method, (low, high) in found.items():
            hits.setdefault(method, []).append(bool(low <= truth <= high))
    return hits


def main() -> int:
    repetitions = 60 if "--quick" in sys.argv[1:] else 400
    start = time.perf_counter()
    shares = {}
    for side in (5, 8):
        cases = [case(side, params, sigma, repetitions, seed) for seed, (_, params, sigma) in enumerate(CASES)]
        names = "".join(f"{f'{name}, noise {sigma:.1%}':>34}" for name, _, sigma in CASES)
        print(f"{f'{side}x{side} runs':24}{names}{'all':>8} {'of':>5}")
        for method in cases[0]:
            pooled = [hit for hits in cases for hit in hits[method]]
            each = "".join(f"{np.mean(hits[method]):34.1%}" for hits in cases)
            print(f"{method:24}{each}{np.mean(pooled):8.1%} {len(pooled):5d}", flush=True)
        shares[side] = float(np.mean([hit for hits in cases for hit in hits[DEFAULT]]))
    missed = [side for side, share in shares.items() if not 0.93 <= share <= 0.97]
    print(
        f"coverage: 95 % intervals of a ({DEFAULT}) cover "
        + ", ".join(f"{share:.1%} on {side}x{side}" for side, share in shares.items())
        + f"; target 93-97 % {'missed' if missed else 'met'}; {time.perf_counter() - start:.0f} s"
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
