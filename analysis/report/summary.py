"""What the page says first: the law, its leading numbers with their intervals, and the best use of a few budgets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from ..fit import FEWEST_RUNS, Fit
from ..laws import Array, Chinchilla
from ..study import Study
from ..tables.table import RunTable
from .numbers import Interval, count, flops, rounded, rounded_interval


@dataclass(frozen=True)
class Tile:
    symbol: str
    meaning: Markup
    value: str
    interval: str  # "" without one


@dataclass(frozen=True)
class BudgetRow:
    """The compute-optimal point at one budget: (value, band) pairs, the band "" without a bootstrap."""

    compute: str
    cells: tuple[tuple[str, str], ...]
    beyond: bool  # more compute than any run had


@dataclass(frozen=True)
class Summary:
    terms: dict[str, str]  # A, B, E, alpha, beta as the equation shows them; empty for another law than Chinchilla's
    formula: str  # of that other law
    tiles: tuple[Tile, ...]
    growth: str  # "" where the exponents are undefined
    budgets: tuple[BudgetRow, ...]
    predictive: bool  # the budgets' last column is the predictive interval of a new run
    rms: str


def summarise(table: RunTable, fit: Fit, study: Study | None) -> Summary:
    """The law in words and rounded numbers."""
    ahead = _ahead(fit, study)
    plain = isinstance(fit.model, Chinchilla)
    return Summary(
        terms={name: rounded(value, fit.ci95.get(name)) for name, value in fit.params.items()} if plain else {},
        formula=fit.model.formula,
        tiles=_tiles(fit, ahead),
        growth=_growth(fit),
        budgets=_budgets(table, fit, ahead),
        predictive=ahead is not None,
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


def _ahead(fit: Fit, study: Study | None) -> tuple[Array, Array] | None:
    """Loss (k,) of a new run at the best N and D of each budget, and its 95 % predictive interval (k, 2); None without a forecast."""
    points = fit.frontier.budgets
    if study is None or study.forecast is None or not (np.isfinite(points.N) & np.isfinite(points.D)).all():
        return None
    loss, low, high = study.forecast.interval(points.N, points.D)
    return loss, np.stack([low, high], axis=1)


def _tiles(fit: Fit, ahead: tuple[Array, Array] | None) -> tuple[Tile, ...]:
    a, b, points = fit.frontier.a_ci95, fit.frontier.b_ci95, fit.frontier.budgets
    last = len(points.C) - 1  # the budgets are the centre of the runs, their largest, and ten times that
    ratio = _tile(
        "D*/N*", f"tokens per parameter at {flops(points.C[last - 1])} FLOPs, the largest so far",
        float(points.tokens_per_parameter[last - 1]), _interval(points.tokens_per_parameter_ci95, last - 1),
    )  # fmt: skip
    ten = f"at {flops(points.C[last])} FLOPs, ten times the largest"
    if ahead is None:
        loss = _tile("L*", f"loss {ten}", float(points.loss[last]), _interval(points.loss_ci95, last))
    else:
        loss = _tile("L", f"loss of a new run {ten}", float(ahead[0][last]), _interval(ahead[1], last))
    floor = "E" in fit.params
    return (
        _tile("a", "the best N grows as C<sup>a</sup>", fit.frontier.a, a),
        _tile("b", "the best D grows as C<sup>b</sup>", fit.frontier.b, b),
        ratio,
        *((_tile("E", "nats per token that no N or D removes", fit.params["E"], fit.ci95.get("E")),) if floor else ()),
        loss,
    )


def _tile(symbol: str, meaning: str, value: float, interval: Interval | None) -> Tile:
    return Tile(
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


def _budgets(table: RunTable, fit: Fit, ahead: tuple[Array, Array] | None) -> tuple[BudgetRow, ...]:
    points, most = fit.frontier.budgets, float((6.0 * table.N * table.D).max())
    columns = [
        (points.N, points.N_ci95, _counted),
        (points.D, points.D_ci95, _counted),
        (points.tokens_per_parameter, points.tokens_per_parameter_ci95, _rounded),
        (points.loss, points.loss_ci95, _rounded),
        *(((*ahead, _rounded),) if ahead is not None else ()),
    ]
    return tuple(
        BudgetRow(
            compute=flops(float(C)),
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
