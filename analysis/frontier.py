"""The compute-optimal frontier of L = A/N^alpha + B/D^beta + E under C = 6 N D (Hoffmann et al. 2022, equation 4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .intervals import ci95
from .laws import Array

FLOPS_PER_PARAMETER_AND_TOKEN = 6.0


@dataclass(frozen=True)
class Points:
    """Compute-optimal points: arrays of shape (k,) in the order of the budgets; bands of shape (k, 2), None without a bootstrap."""

    C: Array
    N: Array
    D: Array
    loss: Array
    tokens_per_parameter: Array
    N_ci95: Array | None
    D_ci95: Array | None
    loss_ci95: Array | None
    tokens_per_parameter_ci95: Array | None


@dataclass(frozen=True)
class Frontier:
    """N*(C) ~ C^a and D*(C) ~ C^b with 95 % bootstrap intervals (None without a bootstrap), and the points at a few budgets."""

    a: float
    b: float
    a_ci95: tuple[float, float] | None
    b_ci95: tuple[float, float] | None
    budgets: Points


def exponent_a(params: Array) -> Array:
    """a = beta/(alpha + beta) for params (S, 5) in the order A, B, E, alpha, beta: (S,); nan where both exponents are zero."""
    alpha, beta = params[:, 3], params[:, 4]
    with np.errstate(invalid="ignore"):
        return beta / (alpha + beta)


def optimal(params: Array, samples: Array, C: Array) -> Points:
    """The optimum at budgets C (k,) for params (5,), with percentile bands from samples (S, 5), S may be 0."""
    N, D, loss, ratio = (values[0] for values in _solve(params[None], C))
    if not len(samples):
        return Points(C, N, D, loss, ratio, None, None, None, None)
    bands = [ci95(values) for values in _solve(samples, C)]
    return Points(C, N, D, loss, ratio, bands[0], bands[1], bands[2], bands[3])


def frontier(params: Array, samples: Array, budgets: Array) -> Frontier:
    """Exponents and points for params (5,) and bootstrap samples (S, 5) at budgets (k,)."""
    a = float(exponent_a(params[None])[0])
    a_ci95 = b_ci95 = None
    if len(samples):
        low, high = (float(bound) for bound in ci95(exponent_a(samples)))
        a_ci95, b_ci95 = (low, high), (1.0 - high, 1.0 - low)
    return Frontier(a, 1.0 - a, a_ci95, b_ci95, optimal(params, samples, budgets))


def default_budgets(N: Array, D: Array) -> Array:
    """Three budgets (3,), to two significant digits: the geometric centre of the data, its largest C, and ten times that."""
    log_c = np.log(FLOPS_PER_PARAMETER_AND_TOKEN) + np.log(N) + np.log(D)
    exact = np.exp(np.minimum([log_c.mean(), log_c.max(), log_c.max() + np.log(10.0)], 700.0))
    return np.array([float(f"{budget:.1e}") for budget in exact])


def _solve(params: Array, C: Array) -> tuple[Array, Array, Array, Array]:
    """N* = G (C/6)^a with G = (alpha A / (beta B))^(1/(alpha + beta)), D* = C/(6 N*), L and D*/N* there: each (S, k), nan where undefined."""
    A, B, E, alpha, beta = (params[:, i : i + 1] for i in range(5))
    with np.errstate(all="ignore"):
        log_g = (np.log(alpha) + np.log(A) - np.log(beta) - np.log(B)) / (alpha + beta)
        log_nd = np.log(C / FLOPS_PER_PARAMETER_AND_TOKEN)
        log_n = log_g + beta / (alpha + beta) * log_nd
        log_d = log_nd - log_n
        loss = A * np.exp(-alpha * log_n) + B * np.exp(-beta * log_d) + E
        return np.exp(log_n), np.exp(log_d), loss, np.exp(log_d - log_n)
