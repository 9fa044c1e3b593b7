from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from sixnd.analysis.laws import Chinchilla, FitError, Rows
from sixnd.analysis.solver.optimize import Optimum, global_minimum
from sixnd.analysis.tables.table import RunTable
from sixnd.analysis.uncertainty.intervals import refit
from sixnd.analysis.uncertainty.resampling import (
    cluster_weights,
    default_bootstrap,
    leverage,
    noise,
    pairs_weights,
    refit_losses,
    residual_bootstrap,
    residual_losses,
    wild_bootstrap,
    wild_losses,
)

Array = npt.NDArray[np.float64]
LAW, DELTA = Chinchilla(), 1e-3


def fitted(table: RunTable) -> tuple[Rows, Optimum]:
    rows = Rows.of(table.N, table.D, table.loss)
    return rows, global_minimum(LAW, rows, DELTA)


def exponent(theta: Array) -> Array:
    return np.asarray(theta[:, 4] / (theta[:, 3] + theta[:, 4]))


def test_refitting_perturbed_losses_finds_what_a_fit_of_them_finds(simulated: Callable[..., RunTable]) -> None:
    table = simulated(0.01)
    rows, best = fitted(table)
    y = rows.y + 0.01 * np.random.default_rng(1).standard_normal((6, len(rows.y)))
    theta = refit_losses(LAW, rows, best, y, DELTA)
    for k in range(6):
        own = Rows.of(table.N, table.D, np.exp(y[k]))
        alone = global_minimum(LAW, own, DELTA)
        assert LAW.natural(theta[k][None], rows)[0, 3:] == pytest.approx(
            LAW.natural(alone.theta[None], own)[0, 3:], rel=1e-4
        )


def test_refitting_the_losses_themselves_changes_nothing(simulated: Callable[..., RunTable]) -> None:
    rows, best = fitted(simulated(0.01))
    assert refit_losses(LAW, rows, best, rows.y[None], DELTA)[0] == pytest.approx(best.theta, rel=1e-6)


def test_estimated_errors_have_the_size_of_the_noise_where_raw_residuals_are_too_small(
    simulated: Callable[..., RunTable],
) -> None:
    raw, corrected = [], []
    for seed in range(12):
        rows, best = fitted(simulated(0.01, sizes=5, lengths=5, seed=seed))
        raw.append(np.mean((rows.y - LAW.shares(best.theta[None], rows).f[0]) ** 2))
        corrected.append(np.mean(noise(LAW, rows, best, DELTA) ** 2))
    assert np.sqrt(np.mean(raw)) < 0.0095
    assert 0.0098 < np.sqrt(np.mean(corrected)) < 0.0125  # r/(1-h) is an overestimate, by 1/sqrt(1-h) in the mean


def test_leverages_sum_to_the_number_of_parameters() -> None:
    J = np.random.default_rng(0).standard_normal((30, 5))
    assert leverage(J).sum() == pytest.approx(5)
    assert leverage(np.eye(5)).max() == 0.95


def test_errors_are_drawn_within_the_pool_and_signs_flipped_in_place() -> None:
    rng = np.random.default_rng(0)
    fitted, errors = np.arange(4.0), np.array([0.1, -0.2, 0.3, -0.4])
    rows = Rows.of(np.ones(4), np.ones(4), np.ones(4))
    drawn = residual_losses(rows, fitted, errors, 500, rng) - fitted
    assert np.unique(drawn.round(6)).tolist() == sorted(errors)
    wild = wild_losses(rows, fitted, errors, 500, rng) - fitted
    assert np.abs(wild) == pytest.approx(np.tile(np.abs(errors), (500, 1)))
    assert abs(np.sign(wild).mean()) < 0.1
    signs = np.sign(wild_losses(rows, fitted, np.ones(4), 500, rng, clusters=["b", "b", "a", "a"]) - fitted)
    assert (signs[:, 0] == signs[:, 1]).all() and (signs[:, 2] == signs[:, 3]).all()
    assert (signs[:, 0] != signs[:, 2]).any()


def test_weights_count_whole_clusters() -> None:
    rng = np.random.default_rng(0)
    assert (pairs_weights(7, 100, rng).sum(axis=1) == 7).all()
    clusters = np.array([5, 5, 5, 2, 2, 9])
    weights = cluster_weights(clusters, 1000, rng)
    assert weights.shape == (1000, 6)
    assert (weights[:, 0] == weights[:, 2]).all() and (weights[:, 3] == weights[:, 4]).all()
    assert (weights[:, [0, 3, 5]].sum(axis=1) == 3).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(6), abs=0.1)
    with pytest.raises(FitError, match="all runs are of one cluster"):
        cluster_weights(np.zeros(4), 10, rng)


def test_clustered_pairs_widen_the_interval_when_checkpoints_repeat_a_run(simulated: Callable[..., RunTable]) -> None:
    table = simulated(0.01)
    rows = Rows.of(np.repeat(table.N, 4), np.repeat(table.D, 4), np.repeat(table.loss, 4))
    best, rng = global_minimum(LAW, rows, DELTA), np.random.default_rng(0)
    alone = exponent(refit(LAW, rows, best, pairs_weights(120, 200, rng), DELTA)).std()
    whole = exponent(refit(LAW, rows, best, cluster_weights(np.repeat(np.arange(30), 4), 200, rng), DELTA)).std()
    assert whole > 1.5 * alone


def test_both_bootstraps_spread_as_the_estimate_does(simulated: Callable[..., RunTable]) -> None:
    estimates, spreads = [], []
    for seed in range(40):
        rows, best = fitted(simulated(0.005, sizes=6, lengths=6, seed=seed))
        estimates.append(exponent(best.theta[None])[0])
        if seed % 10 == 0:
            rng = np.random.default_rng(seed)
            spreads.append(
                [
                    exponent(scheme(LAW, rows, best, loss=DELTA, count=200, rng=rng)).std()
                    for scheme in (residual_bootstrap, wild_bootstrap)
                ]
            )
    assert np.mean(spreads, axis=0) == pytest.approx(np.std(estimates), rel=0.3)


def test_a_seed_repeats_the_samples(simulated: Callable[..., RunTable]) -> None:
    rows, best = fitted(simulated(0.01))
    first, second = (
        residual_bootstrap(LAW, rows, best, loss=DELTA, count=20, rng=np.random.default_rng(7)) for _ in range(2)
    )
    assert (first == second).all()
    assert first.shape == (20, 5)


def test_unequal_noise_is_noticed_and_makes_the_interval_wider(
    simulated: Callable[..., RunTable], table_of: Callable[[Array, Array, Array], RunTable]
) -> None:
    def scheme_of(table: RunTable) -> str:
        rows, best = fitted(table)
        found = default_bootstrap(LAW, rows, best, loss=DELTA, count=100, rng=np.random.default_rng(0))
        assert found.theta.shape == (100, 5)
        return found.scheme

    assert [scheme_of(simulated(0.005, seed=seed)) for seed in range(6)].count("residual") >= 4
    exact = simulated(0.0, sizes=8, lengths=8)
    edge = np.isin(exact.N, [exact.N.min(), exact.N.max()]) | np.isin(exact.D, [exact.D.min(), exact.D.max()])
    errors = np.where(edge, 0.01, 0.0005) * np.random.default_rng(0).standard_normal(64)
    unequal = table_of(exact.N, exact.D, exact.loss * np.exp(errors))
    assert scheme_of(unequal) == "wild"
    rows, best = fitted(unequal)
    spread = [
        exponent(scheme(LAW, rows, best, loss=DELTA, count=200, rng=np.random.default_rng(0))).std()
        for scheme in (wild_bootstrap, residual_bootstrap)
    ]
    assert spread[0] > 1.2 * spread[1]
