"""What every law has in common: log L-hat = logsumexp of terms, its exact derivatives, and the compute-optimal point."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar, NamedTuple

import numpy as np

from .rows import FLOPS_PER_PARAMETER_AND_TOKEN, Array, Rows
from .terms import Term, TermAt

NEGLIGIBLE = 25.0  # a term below e^-25 of the smallest loss counts as zero: how E = 0 looks in log E
STEEPEST = 3.0  # the largest exponent
START_EXPONENTS = np.array([0.05, 0.15, 0.25, 0.35, 0.5, 0.7, 1.0, 1.5])
LARGEST_LOG = 700.0  # exp of more overflows
FLAT = 1e-9  # relative


class Optimal(NamedTuple):
    """The compute-optimal N*, D* and loss of each law at each budget: (S, k), nan where a law has no optimum."""

    N: Array
    D: Array
    loss: Array


@dataclass(frozen=True)
class Shares:
    """A law at parameters theta (S, p): f = log L-hat (S, n), the share of L-hat that each term has (S, n), and the terms."""

    f: Array
    shares: tuple[Array, ...]
    terms: tuple[TermAt, ...]
    size: int  # p

    def jacobian(self) -> Array:
        """df/dtheta, (S, p, n)."""
        J = np.empty((len(self.f), self.size, self.f.shape[1]))
        filled: set[int] = set()
        for share, term in zip(self.shares, self.terms, strict=True):
            for k, j in enumerate(term.index):
                if j in filled:
                    J[:, j] += share * term.slopes[:, k]
                else:
                    np.multiply(share, term.slopes[:, k], out=J[:, j])
                    filled.add(j)
        return J

    def bend(self, v: Array) -> Array:
        """sum over rows of v * sum of share_k (du_k du_k^T + d2u_k), (S, p, p): with - v J J^T, what v d2f/dtheta2 is."""
        H = np.zeros((len(v), self.size, self.size))
        for share, term in zip(self.shares, self.terms, strict=True):
            places = np.eye(self.size)[list(term.index)]
            H += places.T @ term.bend(v * share) @ places
        return H


class Law(ABC):
    """A law L(N, D), nats per token: inner parameters theta (S, p) for the optimiser, natural parameters (S, p) for people.

    `floor` is the place of log E in theta. Laws hold no data: one object serves every table.
    """

    name: ClassVar[str]
    formula: ClassVar[str]
    source: ClassVar[str]
    params: ClassVar[tuple[str, ...]]
    terms: ClassVar[tuple[Term, ...]]
    floor: ClassVar[int | None] = None
    max_exponent: ClassVar[float] = STEEPEST

    @property
    @abstractmethod
    def longest_step(self) -> Array:
        """The longest step of the optimiser in each parameter, (p,)."""

    @abstractmethod
    def bounds(self, rows: Rows) -> tuple[Array, Array]:
        """Lower and upper bounds of theta, each (p,)."""

    @abstractmethod
    def starts(self, rows: Rows, exponents: Array = START_EXPONENTS) -> Array:
        """Variable projection (Golub & Pereyra 1973): the best amplitudes for each point of a grid of exponents, (k, p)."""

    @abstractmethod
    def natural(self, theta: Array, rows: Rows) -> Array:
        """theta (S, p) -> (S, p) in the order of `params` and in the units of the table; a negligible E is exactly 0."""

    @abstractmethod
    def loss(self, params: Array, N: Array, D: Array) -> Array:
        """L at params (S, p) for N and D of shape (k,) or (S, k): (S, k)."""

    def optimal(self, params: Array, C: Array) -> Optimal:
        """The N and D of the smallest loss for params (S, p) at budgets C (k,) FLOPs under C = 6 N D."""
        return search(lambda N, D: self.loss(params, N, D), len(params), C)

    def shares(self, theta: Array, rows: Rows) -> Shares:
        """The law at theta (S, p) on the rows."""
        terms = tuple(term.at(theta, rows) for term in self.terms)
        top = float(rows.y.max())
        with np.errstate(over="ignore", invalid="ignore"):  # where a wild step overflows, the objective is not a number
            sizes = [np.exp(term.u - top) for term in terms]
            total = sum(sizes[1:], sizes[0])
            shares = tuple(size / total for size in sizes)
            f = np.log(total)
        f += top
        return Shares(f, shares, terms, len(self.params))


def search(loss: Callable[[Array, Array], Array], problems: int, C: Array) -> Optimal:
    """The smallest loss(N, D) (S, k) along C = 6 N D for S problems: a grid over log N, then golden-section search.

    nan where the grid's best is at one of its ends, N = 1 or D = 1, and where the loss is flat.
    """
    log_nd = np.log(C / FLOPS_PER_PARAMETER_AND_TOKEN)
    grid = np.linspace(0.0, 1.0, 129)[:, None] * log_nd
    on_grid = loss(np.exp(grid).ravel(), np.exp(log_nd - grid).ravel()).reshape(problems, *grid.shape)
    best, best_loss = on_grid.argmin(1), on_grid.min(1)
    inside = (best > 0) & (best < len(grid) - 1) & (np.ptp(on_grid, axis=1) > FLAT * best_loss)
    low = np.clip(best - 1, 0, 128) / 128 * log_nd
    high = np.clip(best + 1, 0, 128) / 128 * log_nd
    golden = (np.sqrt(5.0) - 1.0) / 2.0
    for _ in range(60):
        left, right = high - golden * (high - low), low + golden * (high - low)
        smaller = loss(np.exp(left), np.exp(log_nd - left)) < loss(np.exp(right), np.exp(log_nd - right))
        low, high = np.where(smaller, low, left), np.where(smaller, right, high)
    log_n = np.where(inside, 0.5 * (low + high), np.nan)
    N, D = np.exp(log_n), np.exp(log_nd - log_n)
    return Optimal(N, D, loss(N, D))


def additive_optimum(log_A: Array, log_B: Array, alpha: Array, beta: Array, C: Array) -> tuple[Array, Array]:
    """N* and D* of A/N^alpha + B/D^beta: alpha A/N^alpha = beta B/D^beta (Hoffmann et al. 2022, equation 4); columns (S, 1), C (k,)."""
    with np.errstate(all="ignore"):
        log_nd = np.log(C / FLOPS_PER_PARAMETER_AND_TOKEN)
        log_n = (np.log(alpha) + log_A - np.log(beta) - log_B + beta * log_nd) / (alpha + beta)
        return np.exp(log_n), np.exp(log_nd - log_n)


def constant(log_value: Array, rows: Rows) -> Array:
    """E for log E (S,): 0 where it is negligible beside the smallest loss."""
    return np.where(log_value < rows.y.min() - NEGLIGIBLE + 5.0, 0.0, np.exp(log_value))


def nonnegative(basis: Array, target: Array) -> Array:
    """Least squares with non-negative coefficients for each problem: basis (G, n, K), target (G or 1, n) -> (G, K).

    With so few unknowns the solution is the best of the supports whose own solution is positive.
    """
    K = basis.shape[2]
    best, best_gain = np.zeros((len(basis), K)), np.zeros(len(basis))
    with np.errstate(all="ignore"):  # a term that overflows or vanishes gives no number, and no number is no gain
        transposed = np.swapaxes(basis, 1, 2)
        gram, image = transposed @ basis, (transposed @ target[:, :, None])[..., 0]
        for support in (list(s) for size in range(1, K + 1) for s in combinations(range(K), size)):
            size = np.sqrt(gram[:, support, support])
            scaled = gram[:, np.array(support)[:, None], support] / (size[:, :, None] * size[:, None, :])
            solved = np.linalg.solve(scaled + 1e-10 * np.eye(len(support)), (image[:, support] / size)[:, :, None])
            solution = solved[..., 0] / size
            gain = np.where((solution > 0).all(1), (solution * image[:, support]).sum(1), -np.inf)
            better = gain > best_gain
            best[better] = 0.0
            best[np.flatnonzero(better)[:, None], support] = solution[better]
            best_gain = np.where(better, gain, best_gain)
    return best
