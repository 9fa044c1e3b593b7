from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize as scipy_minimize
from scipy.special import huber as scipy_huber
from sixnd.analysis.laws import (
    Array,
    Chinchilla,
    Coupled,
    DataConstrained,
    Envelope,
    FitError,
    Kaplan,
    Law,
    LogLinear,
    Rows,
    Tied,
)
from sixnd.analysis.solver.losses import AsymmetricHuber, Huber, LeastAbsolute, LeastSquares, Loss, deltas
from sixnd.analysis.solver.newton import minimise
from sixnd.analysis.solver.optimize import global_minimum
from sixnd.analysis.tables.table import RunTable

LAW = Chinchilla()
LOSSES: tuple[Loss, ...] = (Huber(0.3), LeastSquares(), LeastAbsolute(), AsymmetricHuber(0.3, 0.2))


def rows_of(table: RunTable) -> Rows:
    return Rows.of(table.N, table.D, table.loss)


def published(reference: Path, name: str, where: str) -> Rows:
    frame = pd.read_csv(reference / name).query(where)
    return Rows.of(*(frame[column].to_numpy(dtype=np.float64) for column in ("N", "D", "loss")))


def scipy_best(law: Law, rows: Rows, loss: Loss, starts: Array) -> float:
    """The usual procedure, made careful: BFGS, then Nelder-Mead over the kinks, from every start, inside the bounds."""
    low, high = law.bounds(rows)

    def objective(theta: Array) -> float:
        inside = np.clip(theta, low, high)
        return float(loss.value(rows.y - law.shares(inside[None], rows).f[0]) @ rows.weight) * 1e6

    found = []
    for start in starts:
        theta = scipy_minimize(objective, start, method="BFGS").x
        options = {"xatol": 1e-10, "fatol": 1e-13, "maxiter": 2000}
        found.append(float(scipy_minimize(objective, theta, method="Nelder-Mead", options=options).fun) / 1e6)
    return min(found)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_slope_and_curvature_are_derivatives_and_the_parabola_lies_above(loss: Loss) -> None:
    r = np.linspace(-1.0, 1.0, 38) + 1e-3
    h = 1e-6
    np.testing.assert_allclose(loss.slope(r), (loss.value(r + h) - loss.value(r - h)) / (2 * h), atol=1e-5)
    np.testing.assert_allclose(loss.curvature(r), (loss.slope(r + h) - loss.slope(r - h)) / (2 * h), atol=1e-5)
    np.testing.assert_allclose(loss.reweighting(r) * r, loss.slope(r), atol=1e-12)
    above = loss.value(r) + loss.slope(r) * (0.3 - r) + 0.5 * loss.reweighting(r) * (0.3 - r) ** 2
    same_side = r > 0 if isinstance(loss, AsymmetricHuber) else np.full(len(r), True)
    assert (above[same_side] >= loss.value(np.full(len(r), 0.3))[same_side] - 1e-8).all()
    assert loss.stages()[0] == LeastSquares() and loss.stages()[-1] == loss


def test_losses_and_continuation_have_the_values_of_the_books() -> None:
    r = np.linspace(-3, 3, 41)
    np.testing.assert_allclose(Huber(0.7).value(r), scipy_huber(0.7, r))
    np.testing.assert_allclose(LeastAbsolute().value(r), np.abs(r), atol=1e-9)
    np.testing.assert_allclose(AsymmetricHuber(0.7, 0.5).value(r), scipy_huber(0.7, r))
    np.testing.assert_allclose(
        AsymmetricHuber(0.7, 0.1).value(np.array([-2.0, 2.0])), scipy_huber(0.7, 2.0) * np.array([1.8, 0.2])
    )
    assert deltas(5.0) == [5.0] and deltas(1e-3)[-1] == 1e-3
    assert all(a > b for a, b in zip(deltas(1e-6)[:-1], deltas(1e-6)[1:], strict=True))


@pytest.mark.parametrize(("seed", "delta"), [(0, 1e-3), (1, 1e-3), (2, 1e-2), (3, 1.0)])
def test_no_independent_run_finds_a_lower_objective(
    simulated: Callable[..., RunTable], seed: int, delta: float
) -> None:
    rows = rows_of(simulated(0.01, sizes=4, lengths=4, seed=seed))
    best = global_minimum(LAW, rows, delta)
    starts = np.concatenate([best.theta[None], LAW.starts(rows, np.array([0.3]))])
    assert best.objective <= scipy_best(LAW, rows, Huber(delta), starts) * (1 + 1e-6)
    assert best.gradient_norm < 1e-6 and 1 <= best.starts_agreeing <= best.starts
    assert 1.0 <= best.condition < 1e12


@pytest.mark.parametrize("seed", [4, 7])
def test_restarting_finds_what_the_grid_misses(simulated: Callable[..., RunTable], seed: int) -> None:
    """Few runs and much noise: several minima a few parts in 1e5 apart."""
    rows = rows_of(simulated(0.2, sizes=4, lengths=4, seed=seed))
    low, high = LAW.bounds(rows)
    grid = np.repeat(LAW.starts(rows), 4, axis=0)
    jitter = np.random.default_rng(0).standard_normal(grid.shape) * np.array([0.5, 0.5, 0.7, 0.15, 0.15])
    random = minimise(LAW, rows, rows.weight[None], np.clip(grid + jitter, low, high), 1e-3)
    assert global_minimum(LAW, rows, 1e-3).objective <= random.objective.min() * (1 + 1e-6)


@pytest.mark.parametrize("law", [Tied(), Kaplan(), Coupled(), Envelope(), LogLinear()], ids=lambda law: law.name)
def test_every_law_reaches_its_global_optimum(simulated: Callable[..., RunTable], law: Law) -> None:
    rows = rows_of(simulated(0.01, sizes=5, lengths=4))
    best = global_minimum(law, rows, 1e-3)
    some = law.starts(rows)[:: max(1, len(law.starts(rows)) // 60)]
    random = minimise(law, rows, rows.weight[None], some, 1e-3)
    assert best.objective <= min(random.objective.min(), scipy_best(law, rows, Huber(1e-3), best.theta[None])) * (
        1 + 1e-6
    )


@pytest.mark.parametrize(
    "loss", [LeastAbsolute(), LeastSquares(), AsymmetricHuber(1e-3, 0.2)], ids=lambda loss: type(loss).__name__
)
def test_other_losses_reach_their_optimum(simulated: Callable[..., RunTable], loss: Loss) -> None:
    rows = rows_of(simulated(0.01, sizes=4, lengths=4, seed=5))
    best = global_minimum(LAW, rows, loss)
    starts = np.concatenate([best.theta[None], LAW.starts(rows, np.array([0.3]))])
    assert best.objective <= scipy_best(LAW, rows, loss, starts) * (1 + 1e-6)


def test_asymmetric_huber_follows_the_lower_edge(simulated: Callable[..., RunTable]) -> None:
    rows = rows_of(simulated(0.02, sizes=8, lengths=8))
    theta = global_minimum(LAW, rows, AsymmetricHuber(1e-3, 0.1)).theta
    assert 0.8 <= np.mean(rows.y > LAW.shares(theta[None], rows).f[0]) <= 0.97


def test_weights_count_as_repeated_runs(simulated: Callable[..., RunTable]) -> None:
    rows = rows_of(simulated(0.01, sizes=4, lengths=5))
    counts = np.random.default_rng(0).integers(1, 4, len(rows.x))
    repeated = global_minimum(LAW, rows.take(np.repeat(np.arange(len(rows.x)), counts)), 1e-3)
    weighted = global_minimum(LAW, replace(rows, weight=counts.astype(float)), 1e-3)
    assert weighted.objective == pytest.approx(repeated.objective, rel=1e-9)
    np.testing.assert_allclose(weighted.theta, repeated.theta, rtol=1e-6)


def test_data_constrained_law_is_recovered() -> None:
    rng = np.random.default_rng(1)
    N, U = np.exp(rng.uniform(np.log([[1e7], [1e8]]), np.log([[5e9], [2e10]]), (2, 150)))
    D = U * np.exp(rng.uniform(-0.5, 4.0, 150))
    truth = np.array([[521.0, 1488.0, 1.87, 0.35, 0.35, 15.4, 5.3]])
    law = DataConstrained()
    rows = Rows.of(N, D, law.loss(truth, N, D, U)[0], unique=U)
    np.testing.assert_allclose(law.natural(global_minimum(law, rows, 1e-3).theta[None], rows), truth, rtol=1e-4)


def test_bounds_hold_a_parameter(simulated: Callable[..., RunTable]) -> None:
    rows = rows_of(simulated(0.01))
    best = global_minimum(LAW, rows, 1e-3)
    low, high = (np.repeat(bound[None], 3, axis=0) for bound in LAW.bounds(rows))
    low[:, 3] = high[:, 3] = best.theta[3] + np.array([-0.02, 0.0, 0.02])
    held = minimise(LAW, rows, rows.weight[None], np.repeat(best.theta[None], 3, axis=0), 1e-3, bounds=(low, high))
    np.testing.assert_allclose(held.theta[:, 3], low[:, 3])
    assert held.objective[1] == pytest.approx(best.objective, rel=1e-9)
    assert (held.objective[[0, 2]] > best.objective * 1.001).all()


def test_losses_of_each_problem(simulated: Callable[..., RunTable]) -> None:
    rows = rows_of(simulated(0.01))
    best = global_minimum(LAW, rows, 1e-3)
    y = rows.y + 0.005 * np.random.default_rng(0).standard_normal((40, len(rows.x)))
    together = minimise(LAW, rows.with_losses(y), rows.weight[None], np.repeat(best.theta[None], 40, axis=0), 1e-3)
    alone = [minimise(LAW, rows.with_losses(own), rows.weight[None], best.theta[None], 1e-3).objective[0] for own in y]
    np.testing.assert_allclose(together.objective, alone, rtol=1e-9)


def test_where_the_law_has_no_value_nothing_is_fitted() -> None:
    N = np.geomspace(1.0, 1e300, 20)
    rows = Rows.of(N, N[::-1].copy(), np.linspace(2.0, 3.0, 20))
    assert np.isfinite(global_minimum(LAW, rows, 1e-3).objective)
    with pytest.raises(FitError, match="too many decades"):
        minimise(LAW, rows, rows.weight[None], np.array([[1000.0, 0.0, 0.0, 3.0, 3.0]]), 1e-3)


@pytest.mark.parametrize(
    ("name", "where", "objective"),
    [
        ("chinchilla_epoch.csv", "in_published_fit == 1", 0.0010182740178006),
        ("olmo_ladder_c4.csv", "mode == 'train'", 3.29985720454e-05),
    ],
)
def test_reference_optima(reference: Path, name: str, where: str, objective: float) -> None:
    best = global_minimum(LAW, published(reference, name, where), 1e-3)
    assert best.objective == pytest.approx(objective, rel=1e-6)


def test_published_parameters_of_chinchilla(reference: Path) -> None:
    rows = published(reference, "chinchilla_epoch.csv", "in_published_fit == 1")
    A, B, E, alpha, beta = LAW.natural(global_minimum(LAW, rows, 1e-3).theta[None], rows)[0]
    found = [np.log(A), np.log(B), np.log(E), alpha, beta]
    np.testing.assert_allclose(found, [6.16924637, 7.67015673, 0.59730681, 0.34731050, 0.36717243], rtol=1e-7)
    absolute = global_minimum(LAW, rows, LeastAbsolute())
    assert absolute.objective == pytest.approx(1.1294946537, rel=1e-6)
    point = LAW.natural(absolute.theta[None], rows)[0]
    np.testing.assert_allclose(point, [482.006, 2085.436, 1.816864, 0.347813, 0.365854], rtol=2e-6)


@pytest.mark.parametrize(("noise", "E"), [(0.0, 0.0), (0.002, 0.0)])
def test_flat_E_runs_to_zero(simulated: Callable[..., RunTable], noise: float, E: float) -> None:
    table = simulated(0.0)
    error = np.exp(noise * np.random.default_rng(0).standard_normal(len(table.N)))
    rows = Rows.of(table.N, table.D, (400.0 / table.N**0.34 + 1500.0 / table.D**0.37 + E) * error)
    _, _, E, alpha, beta = LAW.natural(global_minimum(LAW, rows, 1e-3).theta[None], rows)[0]
    assert E < 0.02 and alpha == pytest.approx(0.34, abs=0.01) and beta == pytest.approx(0.37, abs=0.01)


def test_an_exponent_near_zero_ends_at_E_zero() -> None:
    """The valley towards E = 0 is long and bent: a search that only follows it stops 1e-5 above the optimum."""
    rng = np.random.default_rng(7)
    N, D = np.exp(rng.uniform(np.log([[1e7], [1e9]]), np.log([[1e10], [3e11]]), (2, 100)))
    rows = Rows.of(N, D, (2.0 / N**0.01 + 1500.0 / D**0.37 + 1.8) * np.exp(0.01 * rng.standard_normal(100)))
    best = global_minimum(LAW, rows, 1e-3)
    grid = LAW.starts(rows, np.array([0.01, 0.3]))
    low, high = LAW.bounds(rows)
    zero = minimise(
        LAW, rows, rows.weight[None], grid, 1e-3, 2000, bounds=(low, np.where(np.arange(5) == 2, low, high))
    )
    assert best.objective <= zero.objective.min() * (1 + 1e-6)
