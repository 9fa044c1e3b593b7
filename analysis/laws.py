"""Scaling laws: formula, bounds, and exact first and second derivatives of log L, batched over parameter vectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


class FitError(ValueError):
    """A law cannot be fitted or used as asked, or a file is not a fit; the message is one line."""

    exit_code = 2


@dataclass(frozen=True)
class Rows:
    """The runs as the optimiser sees them: x = log N and z = log D, both centred, and y = log L; arrays of shape (n,)."""

    x: Array
    z: Array
    y: Array
    x_mean: float
    z_mean: float

    @classmethod
    def of(cls, N: Array, D: Array, loss: Array) -> Rows:
        x, z = np.log(N), np.log(D)
        return cls(x - x.mean(), z - z.mean(), np.log(loss), float(x.mean()), float(z.mean()))

    def take(self, rows: npt.NDArray[np.intp]) -> Rows:
        """A subset of the runs in the same coordinates."""
        return Rows(self.x[rows], self.z[rows], self.y[rows], self.x_mean, self.z_mean)


@dataclass(frozen=True)
class Shares:
    """The law at parameters theta (S, 5): f = log L-hat and the shares p (N term), q (D term), s (E) of L-hat; all (S, n)."""

    f: Array
    p: Array
    q: Array
    s: Array

    @classmethod
    def select(cls, first: npt.NDArray[np.bool_], a: Shares, b: Shares) -> Shares:
        """The parameter vectors of `a` where first (S,), else those of `b`."""
        pick = first[:, None]
        return cls(*(np.where(pick, mine, other) for mine, other in zip(a._all(), b._all(), strict=True)))

    def keep(self, kept: npt.NDArray[np.bool_]) -> Shares:
        return Shares(*(values[kept] for values in self._all()))

    def _all(self) -> tuple[Array, Array, Array, Array]:
        return self.f, self.p, self.q, self.s


class Chinchilla:
    """L(N, D) = A/N^alpha + B/D^beta + E: Hoffmann et al. 2022 (arXiv 2203.15556), section 3.3.

    Inner parameters theta = (log A', log B', log E, alpha, beta), where A' = A/exp(alpha mean log N) and B' likewise for D, so that
    the three terms are of one size whatever the units are. log L-hat = logsumexp(log A' - alpha x, log B' - beta z, log E).
    """

    name = "chinchilla"
    formula = "L = A/N^alpha + B/D^beta + E"
    params = ("A", "B", "E", "alpha", "beta")
    max_exponent = 3.0
    negligible = 25.0  # a term below e^-25 of the smallest loss counts as zero: how E = 0 looks in log E
    longest_step = np.array([3.0, 3.0, 3.0, 0.5, 0.5])

    def bounds(self, rows: Rows) -> tuple[Array, Array]:
        """Lower and upper bounds of theta, each (5,)."""
        floor, top, steepest = rows.y.min() - self.negligible, rows.y.max(), self.max_exponent
        above = top + steepest * np.array([np.abs(rows.x).max(), np.abs(rows.z).max()])
        return np.array([floor, floor, floor, 0.0, 0.0]), np.array([*above, top, steepest, steepest])

    def shares(self, theta: Array, rows: Rows) -> Shares:
        """theta (S, 5) -> Shares of (S, n): logsumexp with the largest loss as the common scale."""
        top = float(rows.y.max())
        p = np.exp(theta[:, :1] - top - theta[:, 3:4] * rows.x)
        q = np.exp(theta[:, 1:2] - top - theta[:, 4:5] * rows.z)
        s = np.exp(theta[:, 2:3] - top)
        total = p + q + s
        return Shares(np.log(total) + top, p / total, q / total, s / total)

    def gradient(self, at: Shares, rows: Rows, v: Array) -> Array:
        """sum over rows of v * df/dtheta, (S, 5), for row factors v (S, n)."""
        xs, zs = _powers(-rows.x)[:, :2], _powers(-rows.z)[:, :2]
        vp, vq, vs = (v * at.p) @ xs, (v * at.q) @ zs, (v * at.s).sum(1)
        return np.stack([vp[:, 0], vq[:, 0], vs, vp[:, 1], vq[:, 1]], axis=1)

    def along(self, at: Shares, rows: Rows, step: Array) -> Array:
        """The directional derivative of f at each row for a step (S, 5): (S, n)."""
        a, b, e, alpha, beta = (step[:, i : i + 1] for i in range(5))
        return at.p * (a - alpha * rows.x) + at.q * (b - beta * rows.z) + at.s * e

    def curvature(self, at: Shares, rows: Rows, u: Array, v: Array | None = None) -> Array:
        """sum over rows of u * (df/dtheta)(df/dtheta)^T + v * d2f/dtheta2, (S, 5, 5), for row factors (S, n); v None is zero.

        d2f = diag(shares) - shares shares^T in the three log terms, and those are linear in theta.
        """
        outer = u if v is None else u - v
        up, uq = outer * at.p, outer * at.q
        pp, qq, ss = up * at.p, uq * at.q, outer * at.s * at.s
        if v is not None:
            pp, qq, ss = pp + v * at.p, qq + v * at.q, ss + v * at.s
        xs, zs = _powers(-rows.x), _powers(-rows.z)
        pp, qq, s2 = pp @ xs, qq @ zs, ss.sum(1)
        pq = (up * at.q) @ np.column_stack([zs[:, :2], xs[:, 1], xs[:, 1] * zs[:, 1]])  # 1, -z, -x, xz
        ps, qs = (up * at.s) @ xs[:, :2], (uq * at.s) @ zs[:, :2]
        upper = {
            (0, 0): pp[:, 0], (0, 1): pq[:, 0], (0, 2): ps[:, 0], (0, 3): pp[:, 1], (0, 4): pq[:, 1],
            (1, 1): qq[:, 0], (1, 2): qs[:, 0], (1, 3): pq[:, 2], (1, 4): qq[:, 1],
            (2, 2): s2, (2, 3): ps[:, 1], (2, 4): qs[:, 1],
            (3, 3): pp[:, 2], (3, 4): pq[:, 3],
            (4, 4): qq[:, 2],
        }  # fmt: skip
        H = np.empty((len(u), 5, 5))
        for (i, j), values in upper.items():
            H[:, i, j] = H[:, j, i] = values
        return H

    def starts(self, rows: Rows, exponents: Array) -> Array:
        """Variable projection (Golub & Pereyra 1973): for each (alpha, beta) of the grid the best A', B', E >= 0, (k*k, 5).

        For fixed exponents the law is linear; least squares of L-hat/L - 1 stands in for log L-hat - log L. With three unknowns the
        non-negative solution is the best of the seven supports whose own solution is positive.
        """
        alpha, beta = (grid.ravel() for grid in np.meshgrid(exponents, exponents, indexing="ij"))
        inverse = np.exp(-rows.y)
        terms = [np.exp(-alpha[:, None] * rows.x), np.exp(-beta[:, None] * rows.z), np.ones((len(alpha), 1))]
        basis = np.stack([term * inverse for term in terms], axis=2)
        gram, target = np.swapaxes(basis, 1, 2) @ basis, basis.sum(1)
        best, best_gain = np.zeros((len(alpha), 3)), np.zeros(len(alpha))
        for support in ([0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]):
            size = np.sqrt(gram[:, support, support])
            scaled = gram[:, np.array(support)[:, None], support] / (size[:, :, None] * size[:, None, :])
            solved = np.linalg.solve(scaled + 1e-10 * np.eye(len(support)), (target[:, support] / size)[:, :, None])
            solution = solved[..., 0] / size
            gain = np.where((solution > 0).all(1), (solution * target[:, support]).sum(1), -np.inf)
            better = gain > best_gain
            best[better] = 0.0
            best[np.flatnonzero(better)[:, None], support] = solution[better]
            best_gain = np.where(better, gain, best_gain)
        # A term that the projection dropped starts at 1 % of the smallest loss: from zero it could not come back.
        logs = np.log(np.maximum(best, 0.01 * np.exp(rows.y.min())))
        return np.column_stack([logs, alpha, beta])

    def natural(self, theta: Array, rows: Rows) -> Array:
        """theta (S, 5) -> (S, 5) in the order A, B, E, alpha, beta, in the units of the table; a negligible E is exactly 0."""
        A = np.exp(np.minimum(theta[:, 0] + theta[:, 3] * rows.x_mean, 700.0))
        B = np.exp(np.minimum(theta[:, 1] + theta[:, 4] * rows.z_mean, 700.0))
        E = np.where(theta[:, 2] < rows.y.min() - self.negligible + 5.0, 0.0, np.exp(theta[:, 2]))
        return np.column_stack([A, B, E, theta[:, 3], theta[:, 4]])

    def loss(self, params: Array, N: Array, D: Array) -> Array:
        """L at params (S, 5) in the order A, B, E, alpha, beta for N and D of shape (k,): (S, k)."""
        A, B, E, alpha, beta = (params[:, i : i + 1] for i in range(5))
        return A * np.exp(-alpha * np.log(N)) + B * np.exp(-beta * np.log(D)) + E


def _powers(x: Array) -> Array:
    """(n, 3): 1, x, x^2."""
    return np.stack([np.ones_like(x), x, x * x], axis=1)
