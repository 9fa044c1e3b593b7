"""The laws and losses that a fit can be asked for by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from .laws import Chinchilla, Coupled, DataConstrained, Envelope, FitError, Kaplan, Law, LogLinear, Tied
from .solver.losses import AsymmetricHuber, Huber, LeastAbsolute, LeastSquares, Loss

STACKED: tuple[Law, ...] = (Chinchilla(), Tied(), Coupled())  # what forecasts mix; benchmarks/extrapolation.py
COMPARED: tuple[Law, ...] = (*STACKED, Kaplan(), LogLinear())
LAWS: tuple[Law, ...] = (*COMPARED, Envelope(), DataConstrained())
LOSSES = ("huber", "l1", "l2", "asymmetric")
TAU = 0.25  # of the asymmetric loss: a run above the curve costs a third of one as far below


@contextmanager
def guarded() -> Iterator[None]:
    """Laws overflow at absurd N, D and losses: what comes of it is nan, and said to be so. A singular matrix raises FitError."""
    try:
        with np.errstate(all="ignore"):
            yield
    except np.linalg.LinAlgError as error:
        raise FitError(
            "these runs leave the parameters undetermined, or span too many decades (singular matrix)"
        ) from error


def law_of(law: str | Law) -> Law:
    """The law of that name. Raises FitError for an unknown one."""
    if isinstance(law, Law):
        return law
    found = next((known for known in LAWS if known.name == law), None)
    if found is None:
        raise FitError(f"law must be one of {', '.join(known.name for known in LAWS)}, not {law!r}")
    return found


def loss_of(loss: str | Loss, delta: float) -> Loss:
    """The loss of that name; `delta` is where Huber's turn from square to linear. Raises FitError for an unknown one."""
    if not 1e-9 <= delta <= 1e3:
        raise FitError(f"delta must lie between 1e-9 and 1e3, not {delta:g}")
    match loss:
        case "huber":
            return Huber(delta)
        case "l1":
            return LeastAbsolute()
        case "l2":
            return LeastSquares()
        case "asymmetric":
            return AsymmetricHuber(delta, TAU)
        case str():
            raise FitError(f"loss must be one of {', '.join(LOSSES)}, not {loss!r}")
    return loss


def name_of(loss: Loss) -> str:
    """What `loss_of` calls it."""
    names = {Huber: "huber", LeastAbsolute: "l1", LeastSquares: "l2", AsymmetricHuber: "asymmetric"}
    return names.get(type(loss), type(loss).__name__)
