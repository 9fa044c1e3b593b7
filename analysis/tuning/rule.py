"""A power law through optima: lr(N, D, B) = c · N^-x · D^y · B^w and B(D) = b · D^z: the Step Law's forms (arXiv 2503.04715), and B's own share.

Shape suffixes: K optima, P parameters (the value at the centre, then the exponents that were fitted).
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from .local_parabola import Array

Bools = NDArray[np.bool_]
Exponent = Literal["N", "D", "B"]  # parameters without embeddings, training tokens, tokens of a batch


class PowerLaw(BaseModel):
    """value = 2^log2_at_centre · (N / centre_N)^n · (D / centre_D)^d · (B / centre_B)^b.

    An exponent that was not fitted is 0 and not in `fitted`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    centre_N: float
    centre_D: float
    centre_B: float = 1.0
    log2_at_centre: float
    fitted: tuple[Exponent, ...]
    exponents: tuple[float, ...]  # of those fitted, in their order
    covariance: tuple[
        tuple[float, ...], ...
    ]  # (P, P) of log2_at_centre and the exponents; inflated by chi2/dof above 1
    chi2: float
    dof: int
    left_out_octaves: float | None  # RMS error of predicting each rung from the others; None: too few

    def exponent(self, name: Exponent) -> float:
        return self.exponents[self.fitted.index(name)] if name in self.fitted else 0.0

    def exponent_se(self, name: Exponent) -> float | None:
        """None where it was not fitted."""
        if name not in self.fitted:
            return None
        place = 1 + self.fitted.index(name)
        return math.sqrt(self.covariance[place][place])

    @property
    def coefficient(self) -> float:
        """c of c · N^n · D^d · B^b."""
        return self.value(1.0, 1.0, 1.0)

    def value(self, N: float, D: float, B: float | None = None) -> float:
        """At a batch of centre_B where no B is given."""
        return float(2 ** (self.log2_at_centre + sum(map(float.__mul__, self.exponents, self._places(N, D, B)))))

    def se_octaves(self, N: float, D: float, B: float | None = None) -> float:
        """Standard error of log2 of the value."""
        gradient = np.array([1.0, *self._places(N, D, B)])
        return float(np.sqrt(gradient @ np.array(self.covariance) @ gradient))

    def _places(self, N: float, D: float, B: float | None) -> list[float]:
        ratios = {"N": N / self.centre_N, "D": D / self.centre_D, "B": 1.0 if B is None else B / self.centre_B}
        return [math.log2(ratios[name]) for name in self.fitted]


def fit_power_law(
    N: Array,
    D: Array,
    log2_value: Array,
    se: Array,
    correlation: float = 0.0,
    exponents: tuple[Exponent, ...] = ("N", "D"),
    B: Array | None = None,
) -> PowerLaw:
    """Generalised least squares in logarithms.

    Args:
        N: (K,) non-embedding parameters of each optimum.
        D: (K,) training tokens.
        log2_value: (K,) log2 of each optimum.
        se: (K,) its standard error in octaves.
        correlation: of the errors of two optima at one N and B, whose runs share trunks.
        exponents: those wanted; one is left out where the optima have too few distinct values (three of N, two of D or B)
            or no degree of freedom would be left.
        B: (K,) batches in tokens; None where all are of one.

    Raises:
        ValueError: there is no optimum.
    """
    if not len(N):
        raise ValueError("a power law needs an optimum")
    B = np.ones(len(N)) if B is None else B
    enough = {"N": len(np.unique(N)) >= 3, "D": len(np.unique(D)) >= 2, "B": len(np.unique(B)) >= 2}
    wanted = tuple(name for name in exponents if enough[name])
    while len(wanted) + 1 > max(1, len(N) - 1):
        wanted = wanted[:-1]
    logs = {"N": np.log2(N), "D": np.log2(D), "B": np.log2(B)}
    design_KP = np.stack([np.ones(len(N)), *(logs[name] - logs[name].mean() for name in wanted)], axis=1)
    if np.linalg.matrix_rank(design_KP) < design_KP.shape[1]:  # D in proportion to N: no telling which it is
        wanted, design_KP = wanted[:1], design_KP[:, :2]
    error_KK = np.outer(se, se) * np.where((N[:, None] == N) & (B[:, None] == B), correlation, 0.0)
    np.fill_diagonal(error_KK, se**2)
    estimate_P, covariance_PP, chi2 = _solve(design_KP, log2_value, error_KK)
    dof = len(N) - design_KP.shape[1]
    inflation = max(1.0, chi2 / dof) if dof else 1.0
    return PowerLaw(
        centre_N=float(2 ** logs["N"].mean()),
        centre_D=float(2 ** logs["D"].mean()),
        centre_B=float(2 ** logs["B"].mean()),
        log2_at_centre=float(estimate_P[0]),
        fitted=wanted,
        exponents=tuple(estimate_P[1:].tolist()),
        covariance=tuple(map(tuple, (inflation * covariance_PP).tolist())),
        chi2=chi2,
        dof=dof,
        left_out_octaves=_left_out(N, design_KP, log2_value, error_KK),
    )


def _solve(design_KP: Array, y_K: Array, error_KK: Array) -> tuple[Array, Array, float]:
    """Estimate (P,), its covariance (P, P), and chi squared."""
    precision_KK = np.linalg.inv(error_KK)
    covariance_PP = np.linalg.inv(design_KP.T @ precision_KK @ design_KP)
    estimate_P = covariance_PP @ design_KP.T @ precision_KK @ y_K
    residual_K = y_K - design_KP @ estimate_P
    return estimate_P, np.asarray(covariance_PP, dtype=np.float64), float(residual_K @ precision_KK @ residual_K)


def _left_out(N: Array, design_KP: Array, y_K: Array, error_KK: Array) -> float | None:
    """RMS error in octaves of predicting the optima of each N from those of the others."""
    errors: list[float] = []
    for n in np.unique(N):
        kept: Bools = n != N
        if np.linalg.matrix_rank(design_KP[kept]) < design_KP.shape[1]:
            return None
        estimate_P, *_ = _solve(design_KP[kept], y_K[kept], error_KK[np.ix_(kept, kept)])
        errors += (y_K[~kept] - design_KP[~kept] @ estimate_P).tolist()
    return float(np.sqrt(np.mean(np.square(errors))))
