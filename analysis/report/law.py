"""What the page says of a fitted law: its equation, its numbers with their intervals, and the best use of a few budgets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from ..fit import FEWEST_RUNS, Fit
from ..laws import Array
from ..table import RunTable
from .numbers import Interval, count, flops, rounded, rounded_interval


@dataclass(frozen=True)
class Estimate:
    symbol: str
    meaning: Markup
    value: str
    interval: str  # "" without a bootstrap


@dataclass(frozen=True)
class Budget:
    """The compute-optimal point at one budget: (value, band) pairs, the band "" without a bootstrap."""

    compute: str
    cells: tuple[tuple[str, str], ...]
    beyond: bool  # more compute than any run had


@dataclass(frozen=True)
class Law:
    terms: dict[str, str]  # A, B, E, alpha, beta as the equation shows them
    amplitudes: dict[str, str]  # intervals of A and B; empty without a bootstrap
    estimates: tuple[Estimate, ...]
    growth: str  # "" where the exponents are undefined
    budgets: tuple[Budget, ...]
    rms: str


def describe(table: RunTable, fit: Fit) -> Law:
    """The law in words and rounded numbers."""
    return Law(
        terms={name: rounded(value, fit.ci95.get(name)) for name, value in fit.params.items()},
        amplitudes={name: rounded_interval(fit.ci95[name]) for name in ("A", "B") if name in fit.ci95},
        estimates=_estimates(fit),
        growth=_growth(fit),
        budgets=_budgets(table, fit),
        rms=f"{100 * float(np.sqrt(np.mean(fit.residuals**2))):.1f} %",
    )


def why_none(table: RunTable) -> str:
    """Why there is no law for these runs, in one sentence."""
    n = len(table.N)
    if n < FEWEST_RUNS:
        finished = "1 run has" if n == 1 else f"{n or 'no'} runs have"
        return f"There is no law yet: {finished} finished, and a law of five parameters needs at least {FEWEST_RUNS}."
    for name, values in (("N", table.N), ("D", table.D)):
        if len(np.unique(values)) == 1:
            return (
                f"There is no law yet: {name} is the same in all {n} runs, and a law needs at least two values of it."
            )
    return f"No law was fitted to these {n} runs."


def _estimates(fit: Fit) -> tuple[Estimate, ...]:
    a, b = fit.frontier.a_ci95, fit.frontier.b_ci95
    return (
        _estimate("a", "the best N grows as C<sup>a</sup>", fit.frontier.a, a),
        _estimate("b", "the best D grows as C<sup>b</sup>", fit.frontier.b, b),
        _estimate("E", "nats per token that no N or D removes", fit.params["E"], fit.ci95.get("E")),
        _estimate("α", "what a small N adds falls as N<sup>−α</sup>", fit.params["alpha"], fit.ci95.get("alpha")),
        _estimate("β", "what a small D adds falls as D<sup>−β</sup>", fit.params["beta"], fit.ci95.get("beta")),
    )


def _estimate(symbol: str, meaning: str, value: float, interval: Interval | None) -> Estimate:
    return Estimate(
        symbol, Markup(meaning), rounded(value, interval), "" if interval is None else rounded_interval(interval)
    )


def _growth(fit: Fit) -> str:
    """The exponents in words: how a tenfold budget is best spent."""

    def times(exponent: float, interval: Interval | None) -> str:
        if interval is None:
            return f"{10**exponent:.1f} times"
        low, high = 10 ** interval[0], 10 ** interval[1]
        return f"{rounded(10**exponent, (low, high))} times ({rounded_interval((low, high))})"

    if not np.isfinite(fit.frontier.a):
        return ""
    N, D = times(fit.frontier.a, fit.frontier.a_ci95), times(fit.frontier.b, fit.frontier.b_ci95)
    return f"Ten times the compute is best spent on {N} the parameters and {D} the tokens."


def _budgets(table: RunTable, fit: Fit) -> tuple[Budget, ...]:
    points, most = fit.frontier.budgets, float((6.0 * table.N * table.D).max())
    columns = (
        (points.N, points.N_ci95, _counted),
        (points.D, points.D_ci95, _counted),
        (points.tokens_per_parameter, points.tokens_per_parameter_ci95, _rounded),
        (points.loss, points.loss_ci95, _rounded),
    )
    return tuple(
        Budget(
            compute=flops(float(C)).replace(".0e", "e"),
            cells=tuple(show(float(values[i]), _interval(band, i)) for values, band, show in columns),
            beyond=bool(most * 1.06 < C),  # budgets come rounded to two digits
        )
        for i, C in enumerate(points.C)
    )


def _interval(band: Array | None, row: int) -> Interval | None:
    return None if band is None else (float(band[row, 0]), float(band[row, 1]))


def _counted(value: float, interval: Interval | None) -> tuple[str, str]:
    return count(value), "" if interval is None else " to ".join(map(count, interval))


def _rounded(value: float, interval: Interval | None) -> tuple[str, str]:
    return rounded(value, interval), "" if interval is None else rounded_interval(interval)
