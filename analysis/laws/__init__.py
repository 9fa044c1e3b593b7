"""Scaling laws: formula, bounds, starts, and exact first and second derivatives of log L, batched over parameter vectors."""

from .coupled import Coupled, Kaplan
from .law import START_EXPONENTS, Law, Optimal, Shares, search
from .power import Chinchilla, Envelope, LogLinear, SumOfPowers, Tied
from .repetition import DataConstrained
from .rows import FLOPS_PER_PARAMETER_AND_TOKEN, Array, FitError, Rows

__all__ = [
    "FLOPS_PER_PARAMETER_AND_TOKEN",
    "START_EXPONENTS",
    "Array",
    "Chinchilla",
    "Coupled",
    "DataConstrained",
    "Envelope",
    "FitError",
    "Kaplan",
    "Law",
    "LogLinear",
    "Optimal",
    "Rows",
    "Shares",
    "SumOfPowers",
    "Tied",
    "search",
]
