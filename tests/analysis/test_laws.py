from collections.abc import Callable

import numpy as np
import pytest
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
from sixnd.analysis.laws.law import NEGLIGIBLE, search

LAWS: tuple[Law, ...] = (Chinchilla(), Tied(), Kaplan(), Coupled(), DataConstrained(), Envelope(), LogLinear())
RNG = np.random.default_rng(1)
N, D, LOSS = np.exp(RNG.uniform([[15], [20], [0.7]], [[22], [26], [1.4]], (3, 30)))
UNIQUE = D * np.exp(RNG.uniform(-3, 1, 30))  # some runs repeat their tokens up to twenty times, some do not
ROWS = Rows.of(N, D, LOSS, unique=UNIQUE)
BUDGETS = np.array([1e19, 1e22])

every_law = pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)


def points(law: Law) -> Array:
    """Three parameter vectors inside the bounds, theta (3, p)."""
    starts = law.starts(ROWS)
    low, high = law.bounds(ROWS)
    some = starts[np.random.default_rng(2).integers(len(starts), size=3)]
    return np.clip(some + 0.2 * np.random.default_rng(3).normal(size=some.shape), low + 0.1, high - 0.1)


def central(function: Callable[[Array], Array], theta: Array, h: float = 1e-5) -> Array:
    """Central differences of function(theta) over the parameters, the new axis last."""
    return np.stack(
        [(function(theta + s) - function(theta - s)) / (2 * h) for s in h * np.eye(theta.shape[1])], axis=-1
    )


@every_law
def test_gradient_and_hessian_are_exact(law: Law) -> None:
    theta, v = points(law), RNG.normal(size=(3, 30))
    at = law.shares(theta, ROWS)
    J, differences = at.jacobian(), np.swapaxes(central(lambda t: law.shares(t, ROWS).f, theta), 1, 2)
    np.testing.assert_allclose(J, differences, rtol=1e-6, atol=1e-7)
    second = central(lambda t: np.einsum("spn,sn->sp", law.shares(t, ROWS).jacobian(), v), theta)
    outer = np.einsum("sn,spn,sqn->spq", v, J, J)
    np.testing.assert_allclose(at.bend(v) - outer, second, rtol=1e-5, atol=1e-5)


@every_law
def test_inner_and_natural_parameters_give_the_same_loss(law: Law) -> None:
    theta = points(law)
    params = law.natural(theta, ROWS)
    assert params.shape == theta.shape == (3, len(law.params))
    loss = law.loss(params, N, D, UNIQUE) if isinstance(law, DataConstrained) else law.loss(params, N, D)
    np.testing.assert_allclose(loss, np.exp(law.shares(theta, ROWS).f), rtol=1e-10)


@pytest.mark.parametrize(
    ("law", "params", "expected"),
    [
        (Chinchilla(), (400.0, 1500.0, 1.8, 0.34, 0.37), lambda n, d: 400 / n**0.34 + 1500 / d**0.37 + 1.8),
        (Tied(), (400.0, 1500.0, 1.8, 0.35), lambda n, d: 400 / n**0.35 + 1500 / d**0.35 + 1.8),
        (
            Kaplan(),
            (8.8e13, 5.4e13, 0.076, 0.095),
            lambda n, d: ((8.8e13 / n) ** (0.076 / 0.095) + 5.4e13 / d) ** 0.095,
        ),
        (Coupled(), (1e4, 1e9, 1.5, 0.3, 0.5), lambda n, d: 1.5 + (1e4 / n**0.6 + 1e9 / d) ** 0.5),
        (Envelope(), (1600.0, 1.7, 0.16), lambda n, d: 1.7 + 1600 / (6 * n * d) ** 0.16),
        (LogLinear(), (28.0, 0.05, 0.06), lambda n, d: 28.0 / (n**0.05 * d**0.06)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_loss_is_the_formula(law: Law, params: tuple[float, ...], expected: Callable[[Array, Array], Array]) -> None:
    np.testing.assert_allclose(law.loss(np.array([params]), N, D)[0], expected(N, D), rtol=1e-12)


def test_repeated_tokens_are_worth_what_muennighoff_says() -> None:
    """D' = U + U R_D (1 - exp(-R/R_D)) with R = D/U - 1, N' likewise from the size that is optimal for U tokens."""
    A, B, E, alpha, beta, R_D, R_N = params = (521.0, 1488.0, 1.87, 0.35, 0.36, 15.4, 5.3)
    N1, D1, U = 5e9, 40e9, 4e9
    G = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    U_N = min((U * G) ** (beta / alpha) * G, N1)
    tokens = U + U * R_D * (1 - np.exp(-(D1 / U - 1) / R_D))
    size = U_N + U_N * R_N * (1 - np.exp(-(N1 / U_N - 1) / R_N))
    law, theta = DataConstrained(), np.array([params])
    assert U_N < N1
    expected = A / size**alpha + B / tokens**beta + E
    assert law.loss(theta, np.array([N1]), np.array([D1]), U)[0, 0] == pytest.approx(expected, rel=1e-12)
    unlimited = law.loss(theta, N, D)
    np.testing.assert_allclose(unlimited, Chinchilla().loss(theta[:, :5], N, D), rtol=1e-12)
    wall, free = law.optimal(theta, BUDGETS, U), law.optimal(theta, BUDGETS)
    assert wall.loss[0, 1] > free.loss[0, 1] + 0.1
    for factor in (0.8, 1.25):
        assert (law.loss(theta, wall.N * factor, wall.D / factor, U) > wall.loss).all()


def test_data_constrained_needs_unique_tokens() -> None:
    with pytest.raises(FitError, match="unique tokens"):
        DataConstrained().starts(Rows.of(N, D, LOSS))


@pytest.mark.parametrize("law", LAWS[:5], ids=lambda law: law.name)
def test_optimal_is_the_smallest_loss_of_the_budget(law: Law) -> None:
    params = law.natural(points(law)[:2], ROWS)
    best = law.optimal(params, BUDGETS)
    np.testing.assert_allclose(6 * best.N * best.D, np.broadcast_to(BUDGETS, best.N.shape), rtol=1e-9)
    searched = search(lambda n, d: law.loss(params, n, d), len(params), BUDGETS)
    np.testing.assert_allclose(np.log(best.N), np.log(searched.N), rtol=1e-4)
    for factor in (0.8, 1.25):
        assert (law.loss(params, best.N * factor, best.D / factor) > best.loss).all()


def test_no_optimum_where_the_law_has_none() -> None:
    for law in (LogLinear(), Envelope()):
        assert np.isnan(law.optimal(law.natural(points(law), ROWS), BUDGETS).N).all()


def test_negligible_E_is_zero() -> None:
    floor = np.array([[0.0, 0.0, ROWS.y.min() - NEGLIGIBLE, 0.3, 0.3]])
    assert Chinchilla().natural(floor, ROWS)[0, 2] == 0.0 and Coupled().natural(floor, ROWS)[0, 2] == 0.0


def test_starts_are_the_nonnegative_least_squares_solutions() -> None:
    from scipy.optimize import nnls

    weight = RNG.uniform(0.5, 2.0, 30)
    rows = Rows.of(N, D, LOSS, weight=weight)
    for theta in Chinchilla().starts(rows, np.array([0.1, 0.4, 1.0])):
        terms = np.stack([np.exp(-theta[3] * rows.x), np.exp(-theta[4] * rows.z), np.ones(30)], axis=1)
        solution, _ = nnls(terms * (np.sqrt(weight) / LOSS)[:, None], np.sqrt(weight))
        lifted = np.maximum(solution, 0.01 * LOSS.min())
        np.testing.assert_allclose(np.exp(theta[:3]), lifted, rtol=1e-5)


def test_kaplan_starts_solve_the_linear_form() -> None:
    """Without noise the grid point at the true exponents is the truth itself."""
    truth = np.array([[8.8e13, 5.4e13, 0.06, 0.1]])
    rows = Rows.of(N, D, Kaplan().loss(truth, N, D)[0])
    found = Kaplan().natural(Kaplan().starts(rows, np.array([0.06, 0.1])), rows)
    assert any(np.allclose(row, truth[0], rtol=1e-6) for row in found)


def test_rows_take_and_problems() -> None:
    some = ROWS.take(np.array([3, 5]))
    np.testing.assert_allclose(np.exp(some.x + some.x_mean), N[[3, 5]])
    assert some.unique is not None and some.weight.shape == (2,)
    many = ROWS.with_losses(np.stack([ROWS.y, ROWS.y + 1.0, ROWS.y + 2.0]))
    np.testing.assert_allclose(many.problems(np.array([2])).y[0], ROWS.y + 2.0)
    assert ROWS.problems(np.array([2])) is ROWS
