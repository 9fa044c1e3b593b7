"""Laws that are sums of power terms, exp(log K - exponent . log coordinates): Chinchilla, tied exponents, envelope, log-linear."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from .law import LARGEST_LOG, NEGLIGIBLE, START_EXPONENTS, Law, Optimal, additive_optimum, constant, nonnegative
from .rows import FLOPS_PER_PARAMETER_AND_TOKEN, Array, Rows
from .terms import Power

LOST = 0.01  # a term that the projection dropped starts at this part of the smallest loss: from zero it could not come back


class SumOfPowers(Law):
    """theta holds the logs of the amplitudes at the centre of the table, and the exponents as they are.

    Centred, the terms are of one size whatever the units are: log A' = log A - alpha mean log N.
    """

    terms: ClassVar[tuple[Power, ...]]

    @property
    def longest_step(self) -> Array:
        step = np.full(len(self.params), 0.5)
        step[[term.amplitude for term in self.terms]] = 3.0
        return step

    def bounds(self, rows: Rows) -> tuple[Array, Array]:
        low, high = np.zeros(len(self.params)), np.full(len(self.params), self.max_exponent)
        for term in self.terms:
            reach = sum(float(np.abs(getattr(rows, name)).max()) for _, name in term.exponents)
            low[term.amplitude] = rows.y.min() - NEGLIGIBLE
            high[term.amplitude] = rows.y.max() + self.max_exponent * reach
        return low, high

    def starts(self, rows: Rows, exponents: Array = START_EXPONENTS) -> Array:
        """For fixed exponents the law is linear; least squares of L-hat/L - 1 stands in for log L-hat - log L."""
        free = sorted({j for term in self.terms for j, _ in term.exponents})
        grid = np.meshgrid(*[exponents] * len(free), indexing="ij")
        theta = np.zeros((grid[0].size, len(self.params)))
        theta[:, free] = np.stack([axis.ravel() for axis in grid], axis=1)
        root = np.sqrt(rows.weight)
        basis = np.stack([np.exp(term.at(theta, rows).u - rows.y) * root for term in self.terms], axis=2)
        sizes = nonnegative(basis, np.broadcast_to(root, (1, len(rows.x))))
        theta[:, [term.amplitude for term in self.terms]] = np.log(np.maximum(sizes, LOST * np.exp(rows.y.min())))
        return theta

    def natural(self, theta: Array, rows: Rows) -> Array:
        params = theta.copy()
        for term in self.terms:
            log_value = theta[:, term.amplitude].copy()
            for j, name in term.exponents:
                log_value += theta[:, j] * getattr(rows, f"{name}_mean")
            value = np.exp(np.minimum(log_value, LARGEST_LOG))
            params[:, term.amplitude] = value if term.exponents else constant(log_value, rows)
        return params

    def loss(self, params: Array, N: Array, D: Array) -> Array:
        logs = {"x": np.log(N), "z": np.log(D)}
        logs["c"] = logs["x"] + logs["z"] + np.log(FLOPS_PER_PARAMETER_AND_TOKEN)
        total = np.zeros(np.broadcast_shapes((len(params), 1), logs["c"].shape))
        for term in self.terms:
            slope = sum((params[:, j : j + 1] * logs[name] for j, name in term.exponents), np.zeros(1))
            total += params[:, term.amplitude : term.amplitude + 1] * np.exp(-slope)
        return total


class Chinchilla(SumOfPowers):
    """L(N, D) = A/N^alpha + B/D^beta + E."""

    name = "chinchilla"
    formula = "L = A/N^alpha + B/D^beta + E"
    source = "Hoffmann et al. 2022 (arXiv 2203.15556), section 3.3"
    params = ("A", "B", "E", "alpha", "beta")
    terms = (Power(0, ((3, "x"),)), Power(1, ((4, "z"),)), Power(2))
    floor = 2

    def optimal(self, params: Array, C: Array) -> Optimal:
        A, B, _, alpha, beta = (params[:, i : i + 1] for i in range(5))
        with np.errstate(divide="ignore"):
            N, D = additive_optimum(np.log(A), np.log(B), alpha, beta, C)
        return Optimal(N, D, self.loss(params, N, D))


class Tied(SumOfPowers):
    """L(N, D) = A/N^alpha + B/D^alpha + E: N* and D* grow alike, and three of four numbers are linear."""

    name = "tied"
    formula = "L = A/N^alpha + B/D^alpha + E"
    source = "Hoffmann et al. 2022 (arXiv 2203.15556), section 3.3, with alpha = beta"
    params = ("A", "B", "E", "alpha")
    terms = (Power(0, ((3, "x"),)), Power(1, ((3, "z"),)), Power(2))
    floor = 2

    def optimal(self, params: Array, C: Array) -> Optimal:
        return Chinchilla().optimal(params[:, [0, 1, 2, 3, 3]], C)


class Envelope(SumOfPowers):
    """L(C) = E + K C^-gamma with C = 6 N D: the frontier itself, for runs that lie on it; it says nothing of N and D apart."""

    name = "envelope"
    formula = "L = E + K/C^gamma"
    source = "Hoffmann et al. 2022 (arXiv 2203.15556), section 3.1"
    params = ("K", "E", "gamma")
    terms = (Power(0, ((2, "c"),)), Power(1))
    floor = 1


class LogLinear(SumOfPowers):
    """log L = c - alpha log N - beta log D, the baseline: no irreducible loss and no compute-optimal point. K = exp(c)."""

    name = "loglinear"
    formula = "L = K/(N^alpha D^beta)"
    source = "the baseline: ordinary regression of log L"
    params = ("K", "alpha", "beta")
    terms = (Power(0, ((1, "x"), (2, "z"))),)
