"""Laws in which the limits of N and D share one exponent outside: Kaplan et al. 2020, and the same with an irreducible loss."""

from __future__ import annotations

import numpy as np

from . import terms
from .law import NEGLIGIBLE, Law, Optimal, additive_optimum, constant, nonnegative
from .rows import Array, Rows

GRID = np.array([0.1, 0.2, 0.35, 0.6, 1.0])
FLATTEST = 1e-3  # the outer exponent divides
FLOORS = np.array([0.01, 0.3, 0.6, 0.8, 0.95])  # E of the starts, as parts of the smallest loss


class Kaplan(Law):
    """L(N, D) = ((Nc/N)^(alpha/beta) + Dc/D)^beta.

    Inner theta = (alpha log(Nc/mean N), beta log(Dc/mean D), alpha, beta), so that log L-hat = beta lse(s/beta, t/beta) with
    s = theta_0 - alpha x and t = theta_1 - beta z.
    """

    name = "kaplan"
    formula = "L = ((Nc/N)^(alpha/beta) + Dc/D)^beta"
    source = "Kaplan et al. 2020 (arXiv 2001.08361), equation 1.5"
    params = ("Nc", "Dc", "alpha", "beta")
    terms = (terms.Coupled((0, 1, 2, 3)),)

    @property
    def longest_step(self) -> Array:
        return np.array([3.0, 3.0, 0.5, 0.5])

    def bounds(self, rows: Rows) -> tuple[Array, Array]:
        floor, top, steepest = rows.y.min() - NEGLIGIBLE, rows.y.max(), self.max_exponent
        reach = steepest * np.array([np.abs(rows.x).max(), np.abs(rows.z).max()])
        return np.array([floor, floor, 0.0, FLATTEST]), np.array([*(top + reach), steepest, steepest])

    def starts(self, rows: Rows, exponents: Array = GRID) -> Array:
        """L^(1/beta) is linear for fixed exponents."""
        return _project(rows, exponents, np.zeros(1))[:, :4]

    def natural(self, theta: Array, rows: Rows) -> Array:
        a, b, alpha, beta = theta.T
        with np.errstate(divide="ignore", over="ignore"):
            Nc = np.exp(a / alpha + rows.x_mean)
            Dc = np.exp(b / beta + rows.z_mean)
        return np.stack([Nc, Dc, alpha, beta], axis=1)

    def loss(self, params: Array, N: Array, D: Array) -> Array:
        Nc, Dc, alpha, beta = (params[:, i : i + 1] for i in range(4))
        s, t = alpha / beta * np.log(Nc / N), np.log(Dc / D)
        total: Array = np.exp(beta * np.logaddexp(s, t))
        return total

    def optimal(self, params: Array, C: Array) -> Optimal:
        Nc, Dc, alpha, beta = (params[:, i : i + 1] for i in range(4))
        N, D = additive_optimum(alpha / beta * np.log(Nc), np.log(Dc), alpha / beta, np.ones_like(beta), C)
        return Optimal(N, D, self.loss(params, N, D))


class Coupled(Law):
    """L(N, D) = E + (A/N^(alpha/beta) + B/D)^beta: Kaplan's form above an irreducible loss.

    Inner theta = (beta log A - alpha mean log N, beta (log B - mean log D), log E, alpha, beta).
    """

    name = "coupled"
    formula = "L = E + (A/N^(alpha/beta) + B/D)^beta"
    source = "Kaplan et al. 2020 (arXiv 2001.08361), equation 1.5, with an irreducible loss E"
    params = ("A", "B", "E", "alpha", "beta")
    terms = (terms.Coupled((0, 1, 3, 4)), terms.Power(2))
    floor = 2

    @property
    def longest_step(self) -> Array:
        return np.array([3.0, 3.0, 3.0, 0.5, 0.5])

    def bounds(self, rows: Rows) -> tuple[Array, Array]:
        floor, top, steepest = rows.y.min() - NEGLIGIBLE, rows.y.max(), self.max_exponent
        reach = steepest * np.array([np.abs(rows.x).max(), np.abs(rows.z).max()])
        return np.array([floor, floor, floor, 0.0, FLATTEST]), np.array([*(top + reach), top, steepest, steepest])

    def starts(self, rows: Rows, exponents: Array = GRID) -> Array:
        """(L - E)^(1/beta) is linear for fixed exponents and E."""
        theta = _project(rows, exponents, FLOORS)
        return theta[:, [0, 1, 4, 2, 3]]

    def natural(self, theta: Array, rows: Rows) -> Array:
        a, b, e, alpha, beta = theta.T
        with np.errstate(over="ignore"):
            A, B = np.exp((a + alpha * rows.x_mean) / beta), np.exp(b / beta + rows.z_mean)
        return np.stack([A, B, constant(e, rows), alpha, beta], axis=1)

    def loss(self, params: Array, N: Array, D: Array) -> Array:
        A, B, E, alpha, beta = (params[:, i : i + 1] for i in range(5))
        with np.errstate(divide="ignore"):
            s, t = np.log(A) - alpha / beta * np.log(N), np.log(B) - np.log(D)
        total: Array = E + np.exp(beta * np.logaddexp(s, t))
        return total

    def optimal(self, params: Array, C: Array) -> Optimal:
        A, B, _, alpha, beta = (params[:, i : i + 1] for i in range(5))
        with np.errstate(divide="ignore"):
            N, D = additive_optimum(np.log(A), np.log(B), alpha / beta, np.ones_like(beta), C)
        return Optimal(N, D, self.loss(params, N, D))


def _project(rows: Rows, exponents: Array, floors: Array) -> Array:
    """(k, 5): a, b, alpha, beta, log E, the best a and b for each point of the grid; an error of L counts as one of log L."""
    smallest = float(np.exp(rows.y.min()))
    axes = np.meshgrid(exponents, exponents, floors * smallest, indexing="ij")
    alpha, beta, E = (axis.reshape(-1, 1) for axis in axes)
    log_rest = np.log(np.exp(rows.y) - E)
    lever = np.exp(log_rest - rows.y - log_rest / beta) * np.sqrt(rows.weight)
    basis = np.stack([np.exp(-alpha / beta * rows.x) * lever, np.exp(-rows.z) * lever], axis=2)
    sizes = nonnegative(basis, np.exp(log_rest / beta) * lever)
    largest = sizes.max(axis=1, keepdims=True)
    logs = beta * np.log(np.maximum(sizes, 0.01 ** (1.0 / beta) * largest))
    return np.hstack([logs, alpha, beta, np.log(np.maximum(E, smallest * np.exp(-NEGLIGIBLE)))])
