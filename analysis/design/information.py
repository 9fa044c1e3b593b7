"""What runs will tell about L = A/N^alpha + B/D^beta + E before they are trained: Fisher information, and standard errors from it.

With independent normal noise of standard deviation sigma in log L, runs at (N_i, D_i) give the information sum of g_i g_i^T / sigma^2,
g = d log L/d theta, and a quantity f(theta) the variance c^T M^-1 c, c = df/dtheta (the delta method; Atkinson, Donev & Tobias 2007,
"Optimum Experimental Designs"). Here theta = (log A', log B', E/L_0, alpha, beta), with A' and B' the terms at a
reference N_0, D_0 and L_0 the loss there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from ..budgets.frontier import check_optimum, optima
from ..laws import FLOPS_PER_PARAMETER_AND_TOKEN, Array, FitError
from ..plain import plain_fields
from ..solver.losses import NORMAL_MAD

# A vague prior, so that runs that say nothing of a parameter leave a large finite error: 3 in log A' and log B', 1 in the others.
PRIOR_SD = np.array([3.0, 3.0, 1.0, 1.0, 1.0])
TARGETS = ("a", "N", "L", "det")  # a, log N*(C_target), log L*(C_target), or the volume of all parameters' region


@dataclass(frozen=True)
class Errors:
    """Expected standard errors: of alpha, beta, E (nats per token), a = beta/(alpha + beta), and of log N* and log L* at C_target.

    `log_volume` is half the log determinant of the covariance of theta, what a D-optimal design lowers; comparable within one
    design only, for theta depends on the reference.
    """

    C_target: float
    alpha: float
    beta: float
    E: float
    a: float
    log_N: float
    log_L: float
    log_volume: float

    def of(self, target: str) -> float:
        """The standard error that a design for one of TARGETS lowers; for det the mean one over the five parameters."""
        return {"a": self.a, "N": self.log_N, "L": self.log_L, "det": float(np.exp(self.log_volume / 5))}[target]

    def to_json(self) -> dict[str, object]:
        return plain_fields(self)


@dataclass(frozen=True)
class Local:
    """The law linearised at S parameter vectors (S, 5) in the order A, B, E, alpha, beta, around a reference N_0, D_0."""

    params: Array
    N_0: float
    D_0: float

    def gradient(self, N: Array, D: Array) -> Array:
        """d log L/d theta at N, D of shape (n,): (S, n, 5)."""
        return self._gradient(
            np.broadcast_to(N, (len(self.params), len(N))), np.broadcast_to(D, (len(self.params), len(D)))
        )

    def directions(self, C: float) -> dict[str, Array]:
        """df/dtheta (S, 5) of alpha, beta, E, a, log N*(C) as N, and log L*(C) as L."""
        A, B, _, alpha, beta = (self.params[:, i] for i in range(5))
        total, unit, zero = alpha + beta, np.ones(len(alpha)), np.zeros(len(alpha))
        difference = np.log(alpha * A) - alpha * np.log(self.N_0) - np.log(beta * B) + beta * np.log(self.D_0)
        budget = np.log(C / FLOPS_PER_PARAMETER_AND_TOKEN) - np.log(self.N_0) - np.log(self.D_0)
        a_alpha, a_beta = -beta / total**2, alpha / total**2
        bend = difference / total**2
        # log N* = log N_0 + (log alpha A' - log beta B')/(alpha + beta) + a log(C/(6 N_0 D_0)); the optimum does not move L* at first order.
        log_N = [1 / total, -1 / total, zero, 1 / (alpha * total) - bend + budget * a_alpha, -1 / (beta * total) - bend + budget * a_beta]  # fmt: skip
        N, D, _, _ = optima(self.params, np.array([C]))
        return {
            "alpha": np.stack([zero, zero, zero, unit, zero], axis=1),
            "beta": np.stack([zero, zero, zero, zero, unit], axis=1),
            "E": np.stack([zero, zero, self._loss_0(), zero, zero], axis=1),
            "a": np.stack([zero, zero, zero, a_alpha, a_beta], axis=1),
            "N": np.stack(log_N, axis=1),
            "L": self._gradient(N, D)[:, 0],
        }

    def _gradient(self, N: Array, D: Array) -> Array:
        A, B, E, alpha, beta = (self.params[:, i : i + 1] for i in range(5))
        capacity, data = A * N**-alpha, B * D**-beta
        loss = capacity + data + E
        p, q, e = capacity / loss, data / loss, self._loss_0()[:, None] / loss
        return np.stack([p, q, e, -p * np.log(N / self.N_0), -q * np.log(D / self.D_0)], axis=-1)

    def _loss_0(self) -> Array:
        A, B, E, alpha, beta = self.params.T
        return np.asarray(A * self.N_0**-alpha + B * self.D_0**-beta + E)


def local(params: Array, N: Array, D: Array) -> Local:
    """The law linearised at params (S, 5), around the middle of the runs N, D (n,).

    Raises FitError where the first of params has no optimum, and for N or D that are not positive.
    """
    check_optimum(params[0])
    if not len(N) or not (np.isfinite(N) & np.isfinite(D) & (N > 0) & (D > 0)).all():
        raise FitError("design: N and D of every run must be positive and finite, and there must be at least one run")
    defined = np.isfinite(params).all(axis=1) & (params[:, [0, 1, 3, 4]] > 0).all(axis=1)
    return Local(params[defined], float(np.exp(np.log(N).mean())), float(np.exp(np.log(D).mean())))


def covariance(gradient: Array, variance: float) -> Array:
    """Of theta (S, 5, 5), from gradients (S, n, 5) of runs with `variance` in log L each, and the vague prior."""
    information = np.swapaxes(gradient, 1, 2) @ gradient / variance + np.diag(PRIOR_SD**-2)
    return np.asarray(np.linalg.inv(information))


def effective_variance(noise: float, delta: float | None) -> float:
    """The variance per run that a fit by log-Huber(delta) behaves as if it had, for normal noise of standard deviation `noise` in log L.

    noise^2 times E psi^2/(E psi')^2 for Huber's psi at delta/noise (Huber 1964, "Robust estimation of a location parameter"; one for least squares, pi/2 = 1.571 at the
    L1 limit). delta None stands for least squares. Raises FitError for noise or delta that is not positive.
    """
    if not 0 < noise < np.inf:
        raise FitError(f"design: noise is the standard deviation of log L between equal runs, above 0, not {noise:g}")
    if delta is None:
        return noise**2
    if not delta > 0:
        raise FitError(f"design: delta must be above 0, not {delta:g}")
    k = min(delta / noise, 40.0)
    if k < 1e-3:
        return noise**2 * np.pi / 2
    inside = 2 * ndtr(k) - 1
    density = np.exp(-0.5 * k * k) / np.sqrt(2 * np.pi)
    return float(noise**2 * (inside - 2 * k * density + 2 * k * k * ndtr(-k)) / inside**2)


def noise_of(residuals: Array) -> float:
    """The standard deviation of log L between equal runs, from a fit's residuals (n,) of log L: 1.4826 times their median size.

    A fit near the L1 norm passes through as many runs as it has parameters: the five smallest are left out. Misfit of the law counts as
    noise. Raises FitError where nothing is left over.
    """
    size = np.sort(np.abs(residuals))[5:]
    noise = NORMAL_MAD * float(np.median(size)) if len(size) else 0.0
    if not 0 < noise < np.inf:
        raise FitError(
            "design: the fit's residuals show no noise; give the standard deviation of log L between equal runs"
        )
    return noise


def errors(at: Local, cov: Array, C_target: float) -> Errors:
    """The expected errors for covariances (S, 5, 5) at the S parameter vectors: their geometric mean, as a design is judged by."""

    def se(direction: Array) -> float:
        return float(np.exp(0.5 * np.log(np.einsum("si,sij,sj->s", direction, cov, direction)).mean()))

    of = {name: se(direction) for name, direction in at.directions(C_target).items()}
    volume = 0.5 * float(np.linalg.slogdet(cov)[1].mean())
    return Errors(C_target, of["alpha"], of["beta"], of["E"], of["a"], of["N"], of["L"], volume)


def expected_errors(
    N: Array, D: Array, params: Array, noise: float, *, C_target: float, delta: float | None = 1e-3
) -> Errors:
    """Standard errors that a fit of runs at N, D (n,) would have if the law were params (5,): A, B, E, alpha, beta.

    noise: standard deviation of log L between runs of one N and D. delta: of the log-Huber loss of the fit, None for least squares.
    First-order: where an error is not small beside its parameter, or E is close to 0, the real one is skewed and mostly larger.

    Raises FitError for a law without an optimum, and N, D, noise or delta that are not positive.
    """
    at = local(params[None], N, D)
    return errors(at, covariance(at.gradient(N, D), effective_variance(noise, delta)), C_target)


def bootstrap_noise(noise: float, N: Array, D: Array, params: Array, samples: Array, delta: float | None) -> float:
    """`noise`, raised until the expected errors of alpha and beta are on average those of the bootstrap samples (S, 5) of the fit.

    Misfit, clusters and unequal noise show in a bootstrap and not in one standard deviation; it never lowers `noise`.
    """
    at = local(params[None], N, D)
    cov = covariance(at.gradient(N, D), effective_variance(noise, delta))[0]
    seen = np.diff(np.nanpercentile(samples[:, 3:5], [2.5, 97.5], axis=0), axis=0)[0] / (2 * 1.96)
    ratio = float(np.exp(np.log(seen / np.sqrt(np.diag(cov)[3:5])).mean()))
    return noise * max(ratio, 1.0) if np.isfinite(ratio) else noise
