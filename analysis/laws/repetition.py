"""The law of repeated tokens: Muennighoff et al. 2023."""

from __future__ import annotations

import numpy as np

from . import terms
from .law import LARGEST_LOG, Law, Optimal, search
from .power import Chinchilla
from .rows import Array, Rows
from .terms import ExcessParameters, Power, RepeatedTokens, Worth

GRID = np.array([0.1, 0.25, 0.35, 0.5, 0.8])
EPOCHS = np.array([3.0, 15.0, 60.0])  # R_D of the starts; the paper's is 15.4
EXCESS = 5.0  # R_N of the starts; the paper's is 5.3
FLATTEST = 1e-3  # both exponents divide


class DataConstrained(Law):
    """L = A/N'^alpha + B/D'^beta + E, where tokens beyond the U unique ones, and parameters beyond what those call for, are worth less.

    D' = U + U R_D (1 - exp(-(D/U - 1)/R_D)), and N' likewise from the compute-optimal size for U tokens. With D <= U it is Chinchilla's
    law. Needs `Rows.unique`. Inner theta = (log A', log B', log E, alpha, beta, log R_D, log R_N), centred as Chinchilla's.
    """

    name = "data_constrained"
    formula = "L = A/N'^alpha + B/D'^beta + E, D' = U + U R_D (1 - exp(-(D/U - 1)/R_D))"
    source = "Muennighoff et al. 2023 (arXiv 2305.16264), section 3.1"
    params = ("A", "B", "E", "alpha", "beta", "R_D", "R_N")
    terms = (ExcessParameters((0, 1, 3, 4, 6)), RepeatedTokens((1, 4, 5)), Power(2))
    floor = 2

    @property
    def longest_step(self) -> Array:
        return np.array([3.0, 3.0, 3.0, 0.5, 0.5, 1.0, 1.0])

    def bounds(self, rows: Rows) -> tuple[Array, Array]:
        low, high = Chinchilla().bounds(rows)
        low[3:] = FLATTEST
        return np.append(low, np.log([1e-2, 1e-2])), np.append(high, np.log([1e4, 1e4]))

    def starts(self, rows: Rows, exponents: Array = GRID) -> Array:
        """For fixed exponents and R_D Chinchilla's amplitudes on the effective tokens."""
        unique = np.minimum(rows.z, terms.unique_of(rows))
        parts = []
        for epochs in np.log(EPOCHS):
            effective = unique + Worth.of(rows.z - unique, np.array(epochs)).value
            tokens = Rows(rows.x, effective, rows.y, rows.x_mean, rows.z_mean, rows.weight)
            theta = Chinchilla().starts(tokens, exponents)
            parts.append(np.column_stack([theta, np.full(len(theta), epochs), np.full(len(theta), np.log(EXCESS))]))
        return np.concatenate(parts)

    def natural(self, theta: Array, rows: Rows) -> Array:
        return np.column_stack(
            [Chinchilla().natural(theta[:, :5], rows), np.exp(np.minimum(theta[:, 5:], LARGEST_LOG))]
        )

    def loss(self, params: Array, N: Array, D: Array, U: Array | float = np.inf) -> Array:
        """As in every law, for U unique tokens ((k,) or one number); without a bound every token is new."""
        A, B, E, alpha, beta, R_D, R_N = (params[:, i : i + 1] for i in range(7))
        with np.errstate(divide="ignore"):
            z, unique = np.log(D), np.minimum(np.log(D), np.log(U))
            best = (np.log(alpha) + np.log(A) - np.log(beta) - np.log(B) + beta * np.log(U)) / alpha
            x = np.log(N)
            size = np.minimum(x, best)
            tokens = unique + Worth.of(z - unique, np.log(R_D)).value
            parameters = size + Worth.of(x - size, np.log(R_N)).value
        return A * np.exp(-alpha * parameters) + B * np.exp(-beta * tokens) + E

    def optimal(self, params: Array, C: Array, U: float = np.inf) -> Optimal:
        """As in every law, when no more than U unique tokens exist."""
        return search(lambda N, D: self.loss(params, N, D, U), len(params), C)
