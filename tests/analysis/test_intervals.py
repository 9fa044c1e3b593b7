from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sixnd.analysis.laws import Array, Chinchilla, Coupled, Law, Rows
from sixnd.analysis.solver.losses import Huber
from sixnd.analysis.solver.optimize import global_minimum
from sixnd.analysis.tables.table import RunTable
from sixnd.analysis.uncertainty.intervals import bootstrap, ci95, refit

LAW = Chinchilla()


def resampled(n: int, count: int) -> Array:
    return np.random.default_rng(3).multinomial(n, np.full(n, 1 / n), count).astype(float)


@pytest.mark.parametrize("law", [Chinchilla(), Coupled()], ids=lambda law: law.name)
def test_resamples_reach_the_optimum_that_a_global_search_finds(simulated: Callable[..., RunTable], law: Law) -> None:
    table = simulated(0.01, sizes=8, lengths=6)
    rows, n = Rows.of(table.N, table.D, table.loss), len(table.N)
    weights = resampled(n, 30)
    theta = refit(law, rows, global_minimum(law, rows, 1e-3), weights, 1e-3)
    reached = (weights * Huber(1e-3).value(rows.y - law.shares(theta, rows).f)).sum(1)
    repeated = [rows.take(np.repeat(np.arange(n), w.astype(int))) for w in weights]
    best = np.array([global_minimum(law, sample, 1e-3).objective for sample in repeated])
    assert np.mean(reached > best * (1 + 1e-6)) <= 0.05


def test_weights_of_the_runs_multiply_the_multiplicities(simulated: Callable[..., RunTable]) -> None:
    table = simulated(0.01)
    counts = np.random.default_rng(0).integers(1, 4, len(table.N)).astype(float)
    plain = Rows.of(table.N, table.D, table.loss)
    weighted = Rows.of(table.N, table.D, table.loss, weight=counts)
    optimum, weights = global_minimum(LAW, weighted, 1e-3), resampled(len(counts), 20)
    mine, same = refit(LAW, weighted, optimum, weights, 1e-3), refit(LAW, plain, optimum, weights * counts, 1e-3)
    np.testing.assert_allclose(mine, same, rtol=1e-6)


def test_losses_of_each_resample(simulated: Callable[..., RunTable]) -> None:
    """As a residual bootstrap needs: the same runs, other losses."""
    table = simulated(0.01, sizes=8, lengths=8)
    rows, n = Rows.of(table.N, table.D, table.loss), len(table.N)
    optimum = global_minimum(LAW, rows, 1e-3)
    y = rows.y + 0.003 * np.random.default_rng(1).standard_normal((5, n))
    found = refit(LAW, rows.with_losses(y), optimum, np.ones((5, n)), 1e-3)
    for theta, own in zip(found, y, strict=True):
        best = global_minimum(LAW, rows.with_losses(own), 1e-3)
        assert Huber(1e-3).value(own - LAW.shares(theta[None], rows).f[0]).sum() <= best.objective * (1 + 1e-6)


def test_bootstrap_is_reproducible_and_scatters_about_the_optimum(simulated: Callable[..., RunTable]) -> None:
    table = simulated(0.01)
    rows = Rows.of(table.N, table.D, table.loss)
    optimum = global_minimum(LAW, rows, 1e-3)
    first, second = (
        bootstrap(LAW, rows, optimum, delta=1e-3, count=50, rng=np.random.default_rng(7)) for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
    low, high = ci95(first).T
    assert (
        first.shape == (50, 5) and (low < high).all() and ((low <= optimum.theta) & (optimum.theta <= high)).sum() >= 4
    )


def test_published_standard_errors_of_chinchilla(reference: Path) -> None:
    frame = pd.read_csv(reference / "chinchilla_epoch.csv").query("in_published_fit == 1")
    rows = Rows.of(*(frame[name].to_numpy(dtype=np.float64) for name in ("N", "D", "loss")))
    draw = np.random.RandomState(42)
    weights = np.stack([np.bincount(draw.choice(240, 240), minlength=240) for _ in range(4000)]).astype(float)
    samples = LAW.natural(refit(LAW, rows, global_minimum(LAW, rows, 1e-3), weights, 1e-3), rows)
    np.testing.assert_allclose(samples.std(0, ddof=1), [124.494, 1293.169, 0.025657, 0.015397, 0.020594], rtol=2e-3)
    np.testing.assert_allclose(np.percentile(samples[:, 0], [2.5, 97.5]), [286.09, 743.61], rtol=2e-3)
    np.testing.assert_allclose(np.percentile(samples[:, 1], [2.5, 97.5]), [1042.37, 5810.36], rtol=2e-3)
    assert (samples[:, 4] / (samples[:, 3] + samples[:, 4])).std(ddof=1) == pytest.approx(0.01997, rel=2e-3)


def test_ci95_leaves_out_what_is_not_finite() -> None:
    values = np.stack([np.arange(101.0), np.full(101, np.nan)], axis=1)
    values[0, 0] = np.inf
    np.testing.assert_allclose(ci95(values), [[3.475, 97.525], [np.nan, np.nan]])
