"""Over-training: what a model smaller than the compute-optimal one costs, under L = A/N^alpha + B/D^beta + E.

At the optimum of C = 6 N D, alpha A/N^alpha = beta B/D^beta (Hoffmann et al. 2022, arXiv 2203.15556, equation 4). So a model k times smaller
trained to the same loss takes C'/C = (1/k) (r / (1 + r - k^alpha))^(1/beta), r = alpha/beta, at every C, and above k = (1 + r)^(1/alpha)
no number of tokens gets it there: A/N^alpha + E alone is above the loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..laws import Array, FitError
from ..plain import plain_fields
from .frontier import check_optimum, optima

SMALLER = np.array([1.5, 2.0, 3.0, 4.0, 8.0])


@dataclass(frozen=True)
class OverTraining:
    """Models `smaller` (k,) times smaller than the optimum N at C; bands (k, 2) or (2,) are 95 % percentiles, None without samples.

    A resample takes each model relative to its own optimum. Infinity means that no number of tokens reaches the loss of the optimum;
    `reachable_share` (k,) is the share of the resamples in which some number does.
    """

    C: float
    loss: float  # of the optimum
    smaller: Array
    N: Array
    same_compute_D: Array
    same_compute_loss: Array
    same_compute_excess: Array  # over the loss of the optimum, nats per token
    same_compute_excess_ci95: Array | None
    same_loss_D: Array
    same_loss_compute: Array  # times C
    same_loss_compute_ci95: Array | None
    reachable_share: Array | None
    least_loss: Array  # with unlimited tokens: A/N^alpha + E
    most_smaller: float  # no model smaller than this many times reaches the loss of the optimum
    most_smaller_ci95: Array | None

    def to_json(self) -> dict[str, object]:
        """The fields; null where a loss is out of reach, with one sentence for each such model under `unreachable`."""
        return plain_fields(self) | {"unreachable": self.unreachable()}

    def unreachable(self) -> list[str]:
        """One sentence for each model that cannot reach the loss of the optimum."""
        beyond = np.flatnonzero(~np.isfinite(self.same_loss_compute))
        return [
            f"{self.smaller[i]:g}x smaller (N = {self.N[i]:.3g}) never reaches {self.loss:.4f}: its loss stays above"
            f" A/N^alpha + E = {self.least_loss[i]:.4f} however long it trains; at most {self.most_smaller:.3g}x smaller does"
            for i in beyond
        ]


def overtraining(params: Array, samples: Array, C: float, smaller: Array = SMALLER) -> OverTraining:
    """The cost of models `smaller` (k,) times smaller than N*(C), for params (5,) A, B, E, alpha, beta and samples (S, 5), S may be 0.

    Raises FitError where the law has no optimum, and for C or `smaller` that are not positive.
    """
    check_optimum(params)
    if not (0 < C < np.inf and np.isfinite(smaller).all() and (smaller > 0).all()):
        raise FitError(
            f"over-training: C and every k must be positive and finite, not C = {C:g} and k = {smaller.tolist()}"
        )
    best_N, best_D, best_loss, _ = (float(values[0, 0]) for values in optima(params[None], np.array([C])))
    N = best_N / smaller
    compute, most = _same_loss(params[None], smaller)
    bands: list[Array | None] = [None] * 4
    if len(samples):
        resampled, most_resampled = _same_loss(samples, smaller)
        reached = np.isfinite(resampled).mean(axis=0)
        bands = [band(_excess(samples, C, smaller)), band(resampled), reached, band(most_resampled)]
    A, _, E, alpha, _ = params
    excess = _excess(params[None], C, smaller)[0]
    return OverTraining(
        C=C,
        loss=best_loss,
        smaller=smaller,
        N=N,
        same_compute_D=best_D * smaller,
        same_compute_loss=best_loss + excess,
        same_compute_excess=excess,
        same_compute_excess_ci95=bands[0],
        same_loss_D=best_D * smaller * compute[0],
        same_loss_compute=compute[0],
        same_loss_compute_ci95=bands[1],
        reachable_share=bands[2],
        least_loss=A / N**alpha + E,
        most_smaller=float(most[0]),
        most_smaller_ci95=bands[3],
    )


def band(samples: Array) -> Array:
    """95 % interval over the first axis of samples (S, ...) that keeps infinities: the order statistics outside 2.5 and 97.5 %; (..., 2).

    What is undefined (nan) counts as infinite: it is the case of a quantity that is never reached.
    """
    values = np.where(np.isnan(samples), np.inf, samples)
    low = np.percentile(values, 2.5, axis=0, method="lower")
    high = np.percentile(values, 97.5, axis=0, method="higher")
    return np.stack([low, high], axis=-1)


def _same_loss(params: Array, smaller: Array) -> tuple[Array, Array]:
    """C'/C to the loss of the optimum (S, k), infinite where unreachable, and the k above which it is (S,)."""
    alpha, beta = params[:, 3:4], params[:, 4:5]
    with np.errstate(all="ignore"):
        ratio = alpha / beta
        left = 1 + ratio - smaller**alpha
        compute = np.where(left > 0, (ratio / left) ** (1 / beta) / smaller, np.inf)
        return compute, (1 + ratio[:, 0]) ** (1 / alpha[:, 0])


def _excess(params: Array, C: float, smaller: Array) -> Array:
    """L(N*/k, k D*) - L(N*, D*): (S, k)."""
    A, B, _, alpha, beta = (params[:, i : i + 1] for i in range(5))
    N, D, _, _ = optima(params, np.array([C]))
    with np.errstate(all="ignore"):
        return np.asarray(A * N**-alpha * (smaller**alpha - 1) + B * D**-beta * (smaller**-beta - 1))
