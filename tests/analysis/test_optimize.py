from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize
from sixnd.analysis.intervals import refit
from sixnd.analysis.laws import Array, Chinchilla, Rows
from sixnd.analysis.optimize import deltas, global_minimum, huber
from sixnd.analysis.table import RunTable, read_table

LAW = Chinchilla()


def rows_of(table: RunTable) -> Rows:
    return Rows.of(table.N, table.D, table.loss)


def scipy_best(rows: Rows, delta: float, starts: Array) -> float:
    """The usual procedure, made careful: BFGS with the exact gradient, then Nelder-Mead over the kinks, from every start."""

    def objective(theta: Array) -> float:
        return float(huber(rows.y - LAW.shares(theta[None], rows).f[0], delta).sum()) * 1e6

    found = []
    for start in starts:
        theta = minimize(objective, start, method="BFGS").x
        options = {"xatol": 1e-10, "fatol": 1e-13, "maxiter": 4000}
        found.append(float(minimize(objective, theta, method="Nelder-Mead", options=options).fun) / 1e6)
    return min(found)


def test_huber_and_deltas() -> None:
    from scipy.special import huber as scipy_huber

    r = np.linspace(-3, 3, 41)
    np.testing.assert_allclose(huber(r, 0.7), scipy_huber(0.7, r))
    assert deltas(1e-3)[0] == 1.0 and deltas(1e-3)[-1] == 1e-3 and deltas(5.0) == [5.0]
    assert deltas(0.1) == [1.0, 0.1] and all(a > b for a, b in zip(deltas(1e-6)[:-1], deltas(1e-6)[1:], strict=True))


@pytest.mark.parametrize(("seed", "delta"), [(0, 1e-3), (1, 1e-3), (2, 1e-2), (3, 1.0)])
def test_no_independent_run_finds_a_lower_objective(
    simulated: Callable[..., RunTable], seed: int, delta: float
) -> None:
    rows = rows_of(simulated(0.01, sizes=4, lengths=4, seed=seed))
    best = global_minimum(LAW, rows, delta)
    starts = np.concatenate([best.theta[None], LAW.starts(rows, np.array([0.2, 0.6]))])
    assert best.objective <= scipy_best(rows, delta, starts) * (1 + 1e-6)
    assert best.gradient_norm < 1e-6 and 1 <= best.starts_agreeing <= best.starts


@pytest.mark.parametrize(
    ("name", "where", "objective"),
    [
        ("chinchilla_epoch.csv", "in_published_fit == 1", 0.0010182740178006),
        ("olmo_ladder_c4.csv", "mode == 'train'", 3.29985720454e-05),
    ],
)
def test_reference_optima(reference: Path, name: str, where: str, objective: float) -> None:
    best = global_minimum(LAW, rows_of(read_table(reference / name, where=where)), 1e-3)
    assert best.objective == pytest.approx(objective, rel=1e-6)


def test_published_parameters_of_chinchilla(reference: Path) -> None:
    rows = rows_of(read_table(reference / "chinchilla_epoch.csv", where="in_published_fit == 1"))
    A, B, E, alpha, beta = LAW.natural(global_minimum(LAW, rows, 1e-3).theta[None], rows)[0]
    found = [np.log(A), np.log(B), np.log(E), alpha, beta]
    np.testing.assert_allclose(found, [6.16924637, 7.67015673, 0.59730681, 0.34731050, 0.36717243], rtol=1e-7)
    least_absolute = global_minimum(LAW, rows, 1e-8)
    residuals = rows.y - LAW.shares(least_absolute.theta[None], rows).f
    assert np.abs(residuals).sum() == pytest.approx(1.1294946537, rel=1e-6)


def test_published_standard_errors_of_chinchilla(reference: Path) -> None:
    rows = rows_of(read_table(reference / "chinchilla_epoch.csv", where="in_published_fit == 1"))
    draw = np.random.RandomState(42)
    weights = np.stack([np.bincount(draw.choice(240, 240), minlength=240) for _ in range(4000)]).astype(float)
    samples = LAW.natural(refit(LAW, rows, global_minimum(LAW, rows, 1e-3), weights, 1e-3), rows)
    # B is left out: one of the 4,000 resamples has a better optimum than the published one, and its B moves B's SE by 1.5 %.
    np.testing.assert_allclose(samples.std(0, ddof=1)[[0, 2, 3, 4]], [124.494, 0.025657, 0.015397, 0.020594], rtol=2e-3)
    np.testing.assert_allclose(np.percentile(samples[:, 1], [2.5, 97.5]), [1042.37, 5810.36], rtol=2e-3)
    assert (samples[:, 4] / (samples[:, 3] + samples[:, 4])).std(ddof=1) == pytest.approx(0.01997, rel=2e-3)


def test_resamples_reach_the_optimum_that_a_global_search_finds(simulated: Callable[..., RunTable]) -> None:
    table = simulated(0.01, sizes=5, lengths=4)
    rows, n = rows_of(table), len(table.N)
    weights = np.random.default_rng(3).multinomial(n, np.full(n, 1 / n), 40).astype(float)
    theta = refit(LAW, rows, global_minimum(LAW, rows, 1e-3), weights, 1e-3)
    reached = (weights * huber(rows.y - LAW.shares(theta, rows).f, 1e-3)).sum(1)
    repeated = [rows.take(np.repeat(np.arange(n), w.astype(int))) for w in weights]
    best = np.array([global_minimum(LAW, sample, 1e-3).objective for sample in repeated])
    assert np.mean(reached > best * (1 + 1e-5)) <= 0.05


def test_flat_E_runs_to_zero(simulated: Callable[..., RunTable]) -> None:
    table = simulated(0.0)
    loss = 400.0 / table.N**0.34 + 1500.0 / table.D**0.37
    rows = Rows.of(table.N, table.D, loss)
    best = global_minimum(LAW, rows, 1e-3)
    A, _, E, alpha, beta = LAW.natural(best.theta[None], rows)[0]
    assert E < 1e-4 and alpha == pytest.approx(0.34, abs=1e-4) and beta == pytest.approx(0.37, abs=1e-4) and A > 0
