"""The compute-optimal frontier under C = 6 N D: exponents, points and their bands, from the optima that `laws` finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..laws import FLOPS_PER_PARAMETER_AND_TOKEN, Array, Chinchilla, FitError, Optimal, search
from ..plain import plain_fields
from ..uncertainty.intervals import ci95

LossFunction = Callable[[Array, Array, Array], Array]  # params (S, p), N (k,), D (k,) -> (S, k): `loss` of a law


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

    def to_json(self) -> list[dict[str, object]]:
        """One dictionary a budget; null for what does not exist."""
        columns = plain_fields(self)
        lists = {name: column for name, column in columns.items() if isinstance(column, list)}
        return [{name: lists[name][k] if name in lists else None for name in columns} for k in range(len(self.C))]


@dataclass(frozen=True)
class Frontier:
    """N*(C) ~ C^a and D*(C) ~ C^b with 95 % bootstrap intervals (None without a bootstrap), and the points at a few budgets."""

    a: float
    b: float
    a_ci95: tuple[float, float] | None
    b_ci95: tuple[float, float] | None
    budgets: Points

    def to_json(self) -> dict[str, object]:
        return plain_fields(self) | {"budgets": self.budgets.to_json()}


def exponent_a(params: Array) -> Array:
    """a = beta/(alpha + beta) for params (S, 5) in the order A, B, E, alpha, beta: (S,); nan where both exponents are zero."""
    alpha, beta = params[:, 3], params[:, 4]
    with np.errstate(invalid="ignore"):
        return beta / (alpha + beta)


def check_optimum(params: Array) -> None:
    """Raises FitError where the law of params (5,) has no compute-optimal point: one of its two terms is zero or flat."""
    A, B, _, alpha, beta = params
    if not (np.isfinite(params).all() and min(A, B, alpha, beta) > 0):
        raise FitError("this fit has no compute-optimal point: one of its two terms is zero or flat")


def optimal(params: Array, samples: Array, C: Array) -> Points:
    """The optimum at budgets C (k,) for params (5,), with percentile bands from samples (S, 5), S may be 0."""
    return _points(C, optima(params[None], C), optima(samples, C) if len(samples) else None)


def optimal_of(loss: LossFunction, params: Array, samples: Array, C: Array) -> Points:
    """`optimal` for any law by its `loss`, params (p,) and samples (S, p); nan where L has no minimum along 6 N D = C."""
    return _points(C, _search(loss, params[None], C), _search(loss, samples, C) if len(samples) else None)


def frontier(params: Array, samples: Array, budgets: Array) -> Frontier:
    """Exponents and points for params (5,) and bootstrap samples (S, 5) at budgets (k,)."""
    return _frontier(exponent_a(params[None]), exponent_a(samples), optimal(params, samples, budgets))


def frontier_of(loss: LossFunction, params: Array, samples: Array, budgets: Array) -> Frontier:
    """`frontier` for any law; a is the slope of log N* in log C from the first budget to ten times it."""

    def slope(thetas: Array) -> Array:
        N = _search(loss, thetas, budgets[:1] * np.array([1.0, 10.0]))[0]
        return np.asarray(np.log10(N[:, 1] / N[:, 0]))

    a_samples = slope(samples) if len(samples) else np.empty(0)
    return _frontier(slope(params[None]), a_samples, optimal_of(loss, params, samples, budgets))


def default_budgets(N: Array, D: Array) -> Array:
    """Three budgets (3,), to two significant digits: the geometric centre of the data, its largest C, and ten times that."""
    log_c = np.log(FLOPS_PER_PARAMETER_AND_TOKEN) + np.log(N) + np.log(D)
    exact = np.exp(np.minimum([log_c.mean(), log_c.max(), log_c.max() + np.log(10.0)], 700.0))
    return np.array([float(f"{budget:.1e}") for budget in exact])


def lowest(first: Array, step: Array, values: Array) -> tuple[Array, Array]:
    """Where, and how low, each row of values (S, k) over first + step * (0, ..., k - 1) is lowest, (S,) and (S,): the vertex of the
    parabola through the lowest value and its neighbours, or the end of the grid where that is lowest."""
    rows, at = np.arange(len(values)), values.argmin(axis=1)
    middle = np.clip(at, 1, values.shape[1] - 2)
    left, centre, right = (values[rows, middle + shift] for shift in (-1, 0, 1))
    bend = left - 2 * centre + right
    inside = (at == middle) & (bend > 0)
    shift = np.where(inside, 0.5 * (left - right) / np.where(inside, bend, 1.0), 0.0)
    return first + step * (at + shift), values[rows, at] - 0.25 * (left - right) * shift


def _frontier(a: Array, a_samples: Array, points: Points) -> Frontier:
    a_ci95 = b_ci95 = None
    if len(a_samples):
        low, high = (float(bound) for bound in ci95(a_samples))
        a_ci95, b_ci95 = (low, high), (1.0 - high, 1.0 - low)
    return Frontier(float(a[0]), 1.0 - float(a[0]), a_ci95, b_ci95, points)


def _points(
    C: Array, best: tuple[Array, Array, Array, Array], resampled: tuple[Array, Array, Array, Array] | None
) -> Points:
    N, D, loss, ratio = (values[0] for values in best)
    if resampled is None:
        return Points(C, N, D, loss, ratio, None, None, None, None)
    bands = [ci95(values) for values in resampled]
    return Points(C, N, D, loss, ratio, bands[0], bands[1], bands[2], bands[3])


def optima(params: Array, C: Array) -> tuple[Array, Array, Array, Array]:
    """N*, D*, L and D*/N* of L = A/N^alpha + B/D^beta + E in closed form, for params (S, 5): each (S, k), nan where undefined."""
    with np.errstate(all="ignore"):
        return _with_ratio(Chinchilla().optimal(params, C))


def _search(loss: LossFunction, params: Array, C: Array) -> tuple[Array, Array, Array, Array]:
    """What `optima` returns, for any law; budget by budget, because each takes a grid of losses for every resample."""
    with np.errstate(all="ignore"):
        found = [search(lambda N, D: loss(params, N, D), len(params), budget) for budget in np.split(C, len(C))]
        return _with_ratio(Optimal(*(np.concatenate(values, axis=1) for values in zip(*found, strict=True))))


def _with_ratio(best: Optimal) -> tuple[Array, Array, Array, Array]:
    return best.N, best.D, best.loss, best.D / best.N
