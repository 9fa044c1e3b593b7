import numpy as np
from sixnd.analysis.laws import Array, Chinchilla, Rows

LAW = Chinchilla()
RNG = np.random.default_rng(1)
ROWS = Rows.of(*np.exp(RNG.uniform([[15], [20], [0.7]], [[22], [26], [1.4]], (3, 30))))
THETA = np.array([[-0.5, -0.7, 0.5, 0.3, 0.4], [0.2, -2.0, -3.0, 0.9, 0.1], [-1.0, -1.0, -20.0, 0.05, 1.3]])


def central(function: "object", h: float = 1e-5) -> Array:
    """Central differences of function(theta) over the five parameters, the new axis last."""
    steps = np.eye(5) * h
    return np.stack([(function(THETA + s) - function(THETA - s)) / (2 * h) for s in steps], axis=-1)  # type: ignore[operator]


def test_gradient_and_hessian_are_exact() -> None:
    v, u = RNG.normal(size=(3, 30)), RNG.uniform(size=(3, 30))
    at = LAW.shares(THETA, ROWS)
    jacobian = central(lambda theta: LAW.shares(theta, ROWS).f)
    np.testing.assert_allclose(LAW.gradient(at, ROWS, v), np.einsum("sn,snp->sp", v, jacobian), atol=1e-7)
    np.testing.assert_allclose(LAW.along(at, ROWS, THETA), np.einsum("snp,sp->sn", jacobian, THETA), atol=1e-7)
    outer = np.einsum("sn,snp,snq->spq", u, jacobian, jacobian)
    second = central(lambda theta: LAW.gradient(LAW.shares(theta, ROWS), ROWS, v))
    np.testing.assert_allclose(LAW.curvature(at, ROWS, u), outer, atol=1e-6)
    np.testing.assert_allclose(LAW.curvature(at, ROWS, u, v), outer + second, atol=1e-6)


def test_shares_and_natural_parameters_agree_with_the_formula() -> None:
    A, B, E, alpha, beta = (LAW.natural(THETA[:2], ROWS)[:, i : i + 1] for i in range(5))
    N, D = np.exp(ROWS.x + ROWS.x_mean), np.exp(ROWS.z + ROWS.z_mean)
    expected = A / N**alpha + B / D**beta + E
    np.testing.assert_allclose(np.exp(LAW.shares(THETA[:2], ROWS).f), expected, rtol=1e-12)
    np.testing.assert_allclose(LAW.loss(LAW.natural(THETA[:2], ROWS), N, D), expected, rtol=1e-12)
    floor = np.array([[0.0, 0.0, ROWS.y.min() - LAW.negligible, 0.3, 0.3]])
    assert LAW.natural(floor, ROWS)[0, 2] == 0.0


def test_starts_are_the_nonnegative_least_squares_solutions() -> None:
    from scipy.optimize import nnls

    exponents = np.array([0.1, 0.4, 1.0])
    for theta in LAW.starts(ROWS, exponents):
        basis = (
            np.stack([np.exp(-theta[3] * ROWS.x), np.exp(-theta[4] * ROWS.z), np.ones(30)], axis=1)
            / np.exp(ROWS.y)[:, None]
        )
        solution, _ = nnls(basis, np.ones(30))
        lifted = np.maximum(solution, 0.01 * np.exp(ROWS.y.min()))
        np.testing.assert_allclose(np.exp(theta[:3]), lifted, rtol=1e-5)
