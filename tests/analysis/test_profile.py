from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from scipy.optimize import minimize
from scipy.stats import t
from sixnd.analysis.laws import Chinchilla, FitError, Rows
from sixnd.analysis.solver.losses import huber
from sixnd.analysis.solver.optimize import Optimum, global_minimum
from sixnd.analysis.tables.table import RunTable
from sixnd.analysis.uncertainty.profile import Profile, profile
from sixnd.analysis.uncertainty.quantities import Quantity, quantities

Array = npt.NDArray[np.float64]
LAW, DELTA, C = Chinchilla(), 1e-3, 1e21


def fitted(table: RunTable, delta: float = DELTA) -> tuple[Rows, Optimum]:
    rows = Rows.of(table.N, table.D, table.loss)
    return rows, global_minimum(LAW, rows, delta)


def of(name: str, rows: Rows, best: Optimum, delta: float = DELTA) -> Profile:
    return profile(LAW, rows, best, next(q for q in quantities(LAW, C) if q.name == name), delta)


@pytest.fixture
def grid(simulated: Callable[..., RunTable]) -> RunTable:
    return simulated(0.005, seed=3)


def test_each_point_is_the_lowest_objective_with_the_parameter_held(grid: RunTable) -> None:
    rows, best = fitted(grid)
    found = of("alpha", rows, best)
    for k in (3, 30):
        held = found.grid[k]

        def objective(rest: Array, held: float = held) -> float:
            theta = np.array([[*rest[:3], held, rest[3]]])
            return float(huber(rows.y - LAW.shares(theta, rows).f[0], DELTA).sum())

        # Nelder-Mead from the free optimum and restarted: slow, and shares nothing with the code under test.
        at = np.delete(best.theta, 3)
        for _ in range(6):
            at = minimize(
                objective, at, method="Nelder-Mead", options={"maxiter": 4000, "xatol": 1e-10, "fatol": 1e-15}
            ).x
        assert found.objective[k] <= objective(at) * (1 + 1e-4)
        assert found.objective[k] >= objective(at) * (1 - 1e-2)


def test_the_lowest_point_is_the_fit_and_the_profile_rises_from_it(grid: RunTable) -> None:
    rows, best = fitted(grid)
    for name in ("A", "E", "a", "N*"):
        found = of(name, rows, best)
        low = int(found.objective.argmin())
        assert found.objective[low] == pytest.approx(best.objective, rel=1e-6)
        assert found.grid[low] == pytest.approx(found.estimate, rel=1e-3)
        assert (np.diff(found.grid) > 0).all()
        assert found.objective[0] > found.cutoff < found.objective[-1]
        assert len(found.modes) == 1 and not found.multimodal


def test_intervals_hold_the_truth(grid: RunTable, true: dict[str, float]) -> None:
    rows, best = fitted(grid)
    truth = np.array([[true[name] for name in LAW.params]])
    for quantity in (q for q in quantities(LAW, C) if q.name in ("B", "alpha", "G", "L*")):
        low, high = profile(LAW, rows, best, quantity, DELTA).interval
        assert low is not None and high is not None
        assert low < quantity.of(truth)[0] < high, quantity.name


def test_with_least_squares_and_little_noise_it_is_the_interval_of_linear_theory(
    simulated: Callable[..., RunTable],
) -> None:
    rows, best = fitted(simulated(0.0005, sizes=10, lengths=10), delta=1.0)
    at = LAW.shares(best.theta[None], rows)
    J, residual = at.jacobian()[0], rows.y - at.f[0]
    sigma = np.sqrt((residual**2).sum() / 95)
    half = t.ppf(0.975, 95) * sigma * np.sqrt(np.linalg.inv(J @ J.T)[4, 4])
    low, high = of("beta", rows, best, delta=1.0).interval
    assert low is not None and high is not None
    assert high - best.theta[4] == pytest.approx(half, rel=0.12)
    assert best.theta[4] - low == pytest.approx(half, rel=0.12)


def test_D_is_C_over_6_N_in_profiles_too(grid: RunTable) -> None:
    rows, best = fitted(grid)
    sizes, lengths = of("N*", rows, best).interval, of("D*", rows, best).interval
    assert sizes[0] is not None and sizes[1] is not None
    assert lengths == pytest.approx((C / 6 / sizes[1], C / 6 / sizes[0]), rel=1e-3)


def test_two_valleys_are_two_modes(table_of: Callable[[Array, Array, Array], RunTable]) -> None:
    """At 20 tokens a parameter the two terms can change places: what fits with (alpha, beta) fits with (beta, alpha)."""
    N = np.geomspace(1e6, 1e11, 40)
    rng = np.random.default_rng(0)
    loss = (60 / N**0.25 + 1e5 / N**0.8 + 1.5) * np.exp(1e-4 * rng.standard_normal(40))
    rows, best = fitted(table_of(N, 20 * N, loss))
    found = of("alpha", rows, best)
    assert found.multimodal
    assert sorted(found.modes)[0] == pytest.approx(0.25, abs=0.02)
    assert sorted(found.modes)[-1] == pytest.approx(0.8, abs=0.1)


def test_an_end_that_the_runs_do_not_set_is_open(table_of: Callable[[Array, Array, Array], RunTable]) -> None:
    N, D = (g.ravel() for g in np.meshgrid(np.geomspace(1e5, 1e6, 5), np.geomspace(1e6, 1e7, 5)))
    loss = (50 / N**0.3 + 60 / D**0.3 + 0.01) * np.exp(0.01 * np.random.default_rng(1).standard_normal(25))
    rows, best = fitted(table_of(N, D, loss))
    low, high = of("E", rows, best).interval
    assert low is None
    assert high is not None and high > 0.01


def test_a_quantity_that_depends_on_nothing_is_refused(grid: RunTable) -> None:
    rows, best = fitted(grid)
    with pytest.raises(FitError, match="does not change with the parameters"):
        profile(LAW, rows, best, Quantity("one", lambda params: np.ones(len(params))), DELTA)


def test_runs_without_noise_are_refused(simulated: Callable[..., RunTable]) -> None:
    rows, best = fitted(simulated(0.0))
    with pytest.raises(FitError, match="without any noise"):
        of("alpha", rows, best)
