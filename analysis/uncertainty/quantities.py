"""What can be asked of a law beside its loss: each parameter, and a, G, N*, D* and L* of its compute-optimal frontier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..laws import Array, Law

AMPLITUDES = ("A", "B", "K", "Nc", "Dc")


@dataclass(frozen=True)
class Quantity:
    """A scalar of the parameters: `of` takes params (S, p) in the law's order and the table's units to (S,), nan where it has none."""

    name: str
    of: Callable[[Array], Array]
    positive: bool = False  # always above zero: seen on a logarithmic scale


def quantities(law: Law, C: float) -> tuple[Quantity, ...]:
    """Every parameter, and of N* = G (C/6)^a the exponent a, G, and N*, D*, L* at C FLOPs.

    a is the slope of log N* over the decade above C: beta/(alpha + beta) for L = A/N^alpha + B/D^beta + E (Hoffmann et al. 2022,
    arXiv 2203.15556, equation 4).
    """

    def parameter(i: int) -> Callable[[Array], Array]:
        return lambda params: params[:, i]

    def log_n(params: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.log(law.optimal(params, np.array([C, 10 * C])).N)

    def a(params: Array) -> Array:
        return np.asarray(np.diff(log_n(params), axis=1)[:, 0] / np.log(10.0))

    def G(params: Array) -> Array:
        return np.asarray(np.exp(log_n(params)[:, 0] - a(params) * np.log(C / 6.0)))

    def at_budget(k: int) -> Callable[[Array], Array]:
        return lambda params: law.optimal(params, np.array([C]))[k][:, 0]

    return (
        *(Quantity(name, parameter(i), name in AMPLITUDES) for i, name in enumerate(law.params)),
        Quantity("a", a),
        Quantity("G", G, positive=True),
        Quantity("N*", at_budget(0), positive=True),
        Quantity("D*", at_budget(1), positive=True),
        Quantity("L*", at_budget(2), positive=True),
    )
