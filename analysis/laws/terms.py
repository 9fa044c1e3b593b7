"""The terms that the laws are made of. A term is exp(u(theta, row)); each gives u, its slopes and its second derivatives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from .rows import Array, FitError, Rows

Coordinate = Literal["x", "z", "c"]


@dataclass(frozen=True)
class TermAt:
    """A term at parameters theta: u (S, n or 1), its slopes du/dtheta_index (S or 1, k, n), and where u bends d2u by pair of places.

    `second` maps places (i, j), i <= j, of `index` to (S, n); what is not there is zero.
    """

    index: tuple[int, ...]
    u: Array
    slopes: Array
    second: dict[tuple[int, int], Array] = field(default_factory=dict)

    def bend(self, v: Array) -> Array:
        """sum over rows of v * (du du^T + d2u) for v (S, n): (S, k, k)."""
        k = len(self.index)
        if len(self.slopes) == 1:
            products = (self.slopes[0][:, None] * self.slopes[0][None]).reshape(k * k, -1)
            H: Array = (v @ products.T).reshape(-1, k, k)
        else:
            H = (self.slopes * v[:, None]) @ np.swapaxes(self.slopes, 1, 2)
        for (i, j), values in self.second.items():
            part = np.vecdot(v, values)
            H[:, i, j] += part
            if i != j:
                H[:, j, i] += part
        return H


class Term(Protocol):
    def at(self, theta: Array, rows: Rows) -> TermAt:
        """theta (S, p) of the whole law."""


@dataclass(frozen=True)
class Power:
    """exp(theta_amplitude) times exp(-theta_j coordinate_j) for each exponent (j, coordinate); without exponents a constant."""

    amplitude: int
    exponents: tuple[tuple[int, Coordinate], ...] = ()

    @property
    def index(self) -> tuple[int, ...]:
        return (self.amplitude, *(j for j, _ in self.exponents))

    def at(self, theta: Array, rows: Rows) -> TermAt:
        design = np.ones((len(self.index), len(rows.x)))
        u = theta[:, self.amplitude : self.amplitude + 1]
        for k, (j, name) in enumerate(self.exponents, start=1):
            np.negative(getattr(rows, name), out=design[k])
            u = u + theta[:, j : j + 1] * design[k]
        return TermAt(self.index, u, design[None])


@dataclass(frozen=True)
class Coupled:
    """kappa lse(s/kappa, t/kappa) with s = theta_0 - theta_2 x, t = theta_1 - theta_3 z and kappa = theta_3: (e^(s/kappa) + e^(t/kappa))^kappa.

    Its Hessian in (s, t, kappa) has rank one: (pq/kappa) e e^T with e = (1, -1, -(s - t)/kappa), p and q the shares of the two.
    """

    index: tuple[int, int, int, int]

    def at(self, theta: Array, rows: Rows) -> TermAt:
        a, b, alpha, beta = (theta[:, j : j + 1] for j in self.index)
        s, t = a - alpha * rows.x, b - beta * rows.z
        odds = (s - t) / beta
        tail = np.exp(-np.abs(odds))
        larger = 1.0 / (1.0 + tail)
        p = np.where(odds >= 0.0, larger, tail * larger)
        q = np.where(odds >= 0.0, tail * larger, larger)
        extra = np.log1p(tail)
        entropy = extra + np.abs(odds) * tail * larger
        slopes = np.stack([p, q, -p * rows.x, entropy - q * rows.z], axis=1)
        e = (1.0, -1.0, -rows.x, rows.z - odds)
        sharpness = p * q / beta
        second = {(i, j): sharpness * (e[i] * e[j]) for i in range(4) for j in range(i, 4)}
        return TermAt(self.index, np.maximum(s, t) + beta * extra, slopes, second)


@dataclass(frozen=True)
class RepeatedTokens:
    """B / D'^beta with D' = U + U R (1 - exp(-(D/U - 1)/R)) where D > U, else D: Muennighoff et al. 2023, equation 5.

    index: log B, beta, log R.
    """

    index: tuple[int, int, int]

    def at(self, theta: Array, rows: Rows) -> TermAt:
        b, beta, r = (theta[:, j : j + 1] for j in self.index)
        unique = np.minimum(rows.z, unique_of(rows))
        worth = Worth.of(rows.z - unique, r)
        effective = unique + worth.value
        slopes = np.stack([np.ones_like(effective), -effective, -beta * worth.r], axis=1)

        second = {(1, 2): -worth.r, (2, 2): -beta * worth.rr}
        return TermAt(self.index, b - beta * effective, slopes, second)


@dataclass(frozen=True)
class ExcessParameters:
    """A / N'^alpha with N' = V + V R (1 - exp(-(N/V - 1)/R)) where N > V, else N, and V the optimal size for U tokens.

    Muennighoff et al. 2023, section 3.1 and equation 6. V solves alpha A/V^alpha = beta B/U^beta, so that log V depends on the law.
    index: log A, log B, alpha, beta, log R.
    """

    index: tuple[int, int, int, int, int]

    def at(self, theta: Array, rows: Rows) -> TermAt:
        a, b, alpha, beta, r = (theta[:, j : j + 1] for j in self.index)
        w = unique_of(rows)
        best = (np.log(alpha / beta) + a - b + beta * w) / alpha
        excess = np.maximum(rows.x - best, 0.0)
        worth = Worth.of(excess, r)
        over = excess > 0.0
        effective = np.where(over, best + worth.value, rows.x)
        # g = effective(m(a, b, alpha, beta), r) with m = log V = k/alpha: its derivatives by m and r, and those of m
        gm, gmm, gmr = np.where(over, [1.0 - worth.rho, worth.rho2, -worth.rho_r], 0.0)
        m = [1.0 / alpha, -1.0 / alpha, (1.0 / alpha - best) / alpha, (w - 1.0 / beta) / alpha]
        mm = {(i, 2): -m[i] / alpha for i in (0, 1, 3)}
        mm |= {(2, 2): -2.0 * m[2] / alpha - alpha**-3, (3, 3): 1.0 / (alpha * beta * beta)}
        g = [*(gm * slope for slope in m), worth.r]
        gg = {(i, j): gmm * m[i] * m[j] for i in range(4) for j in range(i, 4)}
        for (i, j), value in mm.items():
            gg[min(i, j), max(i, j)] = gg[min(i, j), max(i, j)] + gm * value
        gg |= {(i, 4): gmr * m[i] for i in range(4)} | {(4, 4): worth.rr}
        # u = a - alpha g
        slopes = np.stack([-alpha * slope for slope in g], axis=1)
        slopes[:, 0] += 1.0
        slopes[:, 2] -= effective
        second = {pair: -alpha * value for pair, value in gg.items()}
        for j in range(5):
            pair = (min(j, 2), max(j, 2))
            second[pair] = second[pair] - g[j] * (2.0 if j == 2 else 1.0)
        return TermAt(self.index, a - alpha * effective, slopes, second)


@dataclass(frozen=True)
class Worth:
    """h = log(1 + R (1 - exp(-(e^rho - 1)/R))), what e^rho epochs are worth, with its derivatives by rho and by r = log R; all (S, n)."""

    value: Array
    rho: Array
    rho2: Array
    r: Array
    rho_r: Array
    rr: Array

    @classmethod
    def of(cls, rho: Array, r: Array) -> Worth:
        R, times = np.exp(r), np.exp(np.minimum(rho, 100.0))
        q = (times - 1.0) / R
        decay = np.exp(-q)
        worth = 1.0 - R * np.expm1(-q)
        by_rho = times * decay / worth
        by_r = R * (1.0 - (1.0 + q) * decay) / worth
        return cls(
            np.log(worth),
            by_rho,
            by_rho * (1.0 - times / R - by_rho),
            by_r,
            by_rho * (q - by_r),
            by_r - R * q * q * decay / worth - by_r * by_r,
        )


def unique_of(rows: Rows) -> Array:
    """log U of each run, (n,); raises FitError where the table does not say."""
    if rows.unique is None:
        raise FitError("the data-constrained law needs the number of unique tokens of each run")
    return rows.unique
