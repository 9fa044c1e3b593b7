"""A verdict: one thing that a careful reader should know, with a code that stays and a message in plain words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..laws import Array

Refit = Callable[[Array], Array]  # row weights (S, n) -> params (S, 5) in the order A, B, E, alpha, beta
RunName = Callable[[int], str]  # a row counted from 0 -> how a message names it: RunTable.run_name


@dataclass(frozen=True)
class Verdict:
    """One thing that a careful reader of a fit should know: a stable `code` and a `message` in plain words."""

    code: str
    message: str


def numbered(N: Array, D: Array) -> RunName:
    """Names of runs of a table without names: their place, N and D."""
    return lambda run: f"run {run + 1} of the table (N = {N[run]:.3g}, D = {D[run]:.3g})"
