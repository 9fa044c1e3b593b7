"""What the commands about laws print: predictions, comparisons, profiles, the frontier, and the next runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from ..show import short, table_with

if TYPE_CHECKING:  # numpy and pandas, which take a second to import
    from ...analysis.budgets.outlook import Outlook
    from ...analysis.design.information import Errors
    from ...analysis.design.next_runs import Design
    from ...analysis.forecasts.compare import Comparison
    from ...analysis.predict import FitFile
    from ...analysis.uncertainty.profile import Profile

BARS = 40  # characters of the longest bar of a profile


def print_predictions(console: Console, fit: FitFile, rows: Sequence[Mapping[str, float | None]]) -> None:
    """One row a point, and how many of them lie beyond the runs."""
    from ...analysis.predict import warnings

    table = table_with("N", "D", "loss", "95 % interval of a new run")
    beyond = 0
    for row in rows:
        N, D = row["N"] or 0.0, row["D"] or 0.0
        beyond += any(found["code"] == "extrapolation" for found in warnings(fit, N=N, D=D, C=6 * N * D))
        table.add_row(short(N), short(D), _value(row["loss"]), _between(row["lo95"], row["hi95"]))
    console.print(table)
    if beyond:
        console.print(
            f"warning extrapolation: {beyond} of {len(rows)} points lie outside the N, D or C of the fitted runs"
        )


def print_answer(console: Console, answer: Mapping[str, Any]) -> None:
    """Every number of a single prediction, then its warnings."""
    for name, value in answer.items():
        if name != "warnings":
            shown = f"{value:.6g}" if isinstance(value, float) else "none" if value is None else value
            console.print(f"{name:>20}: {shown}", markup=False)
    _print_warnings(console, answer["warnings"])


def print_comparison(console: Console, found: Comparison, weights: Mapping[str, float]) -> None:
    """Laws by their score, the best first, and which wins by how much."""
    table = table_with("law", "interval score", "behind the best", "coverage", "median |error|", "residual RMS")
    for score in found.scores:
        spread = "" if score.behind_se is None else f" ± {score.behind_se:.2%}"
        table.add_row(
            score.law,
            f"{score.score:.2%}",
            f"{score.behind:.2%}{spread}" if score is not found.best else "",
            f"{score.coverage:.0%}",
            f"{score.error:.2%}",
            "" if score.rms is None else f"{score.rms:.2%}",
        )
    console.print(table)
    C = ", ".join(f"{C:.2g}" for C in found.trained)
    console.print(
        f"fitted to the runs up to C = {C} FLOPs and scored on the rest; {found.level:.0%} intervals, in log loss"
    )
    second = found.scores[1] if len(found.scores) > 1 else None
    if second is not None:
        gap = f"the score of {second.law} is {second.score / found.best.score - 1:.0%} worse than that of {found.best.law}"
        unsure = second.behind_se is not None and second.behind < 2 * second.behind_se
        verdict = "no law clearly wins" if unsure else f"{found.best.law} wins"
        console.print(f"{verdict}: {gap}{', within two standard errors over the folds' if unsure else ''}")
    stacked = ", ".join(f"{weight:.0%} {law}" for law, weight in weights.items())
    console.print(f"predictions stack {stacked}")


def print_profile(console: Console, found: Profile) -> None:
    """The interval and the modes, and the objective over the grid as bars."""
    low, high = found.interval
    ends = f"{_value(low, 'open below')} to {_value(high, 'open above')}"
    console.print(f"{found.name} = {found.estimate:.4g}, 95 % interval by profile likelihood {ends}", markup=False)
    if found.multimodal:
        modes = ", ".join(f"{mode:.4g}" for mode in found.modes)
        console.print(f"warning multimodal: the profile has valleys at {modes}; one interval does not describe it")
    lowest, highest = float(found.objective.min()), found.cutoff
    for value, objective in zip(found.grid, found.objective, strict=True):
        height = (float(objective) - lowest) / (highest - lowest) if highest > lowest else 0.0
        bar = "█" * max(1, round(BARS / 2 * min(height, 2.0)))
        console.print(f"{value:>12.4g}  {bar}{'' if height <= 1 else ' outside'}", markup=False)


def print_outlook(console: Console, found: Outlook) -> None:
    """The optimum at each budget, over-training there, the data wall, warnings."""
    edge = found.fit.frontier
    console.print(f"N* ~ C^a, a = {_value(edge.a)}; D* ~ C^b, b = {_value(edge.b)}", markup=False)
    table = table_with("budget", "C", "N*", "95 %", "D*", "95 %", "D*/N*", "loss of a run", "95 %")
    points = found.points
    for k, budget in enumerate(found.budgets):
        table.add_row(
            budget.given,
            f"{budget.flops:.3g}",
            short(points.N[k]),
            _band(points.N_ci95, k),
            short(points.D[k]),
            _band(points.D_ci95, k),
            f"{points.tokens_per_parameter[k]:.3g}",
            _value(found.runs[k]["loss"]),
            _between(found.runs[k]["lo95"], found.runs[k]["hi95"]),
        )
    console.print(table)
    for assumed in dict.fromkeys(budget.assumptions for budget in found.budgets if budget.assumptions):
        console.print(f"assumed: {assumed}", markup=False)
    _print_overtraining(console, found)
    if found.data_wall is not None:
        for end, wall in (("low", found.data_wall.low), ("high", found.data_wall.high)):
            C = "" if wall.C_ci95 is None else f" ({wall.C_ci95[0]:.2g} to {wall.C_ci95[1]:.2g})"
            after = wall.repeating
            console.print(
                f"data wall, {end}: {short(wall.unique_tokens)} unique tokens end at C = {wall.C:.2g}{C}, N = {short(wall.N)};"
                f" at {after.C[-1] / wall.C:,.0f} times that, {after.epochs[-1]:.3g} epochs cost {after.price[-1]:.3g} nats per token",
                markup=False,
            )
        console.print(f"stock: {found.data_wall.stock.source}; {found.data_wall.assumptions}", markup=False)
    _print_warnings(console, found.warnings)


def print_design(console: Console, found: Design) -> None:
    """The runs, and expected standard errors before, after, and after a plain grid of the same cost."""
    runs = table_with("N", "D", "FLOPs")
    for N, D, flops in zip(found.N, found.D, found.flops_each, strict=True):
        runs.add_row(short(N), short(D), f"{flops:.2e}")
    console.print(runs)
    console.print(
        f"{len(found.N)} runs, {found.flops:.3g} of {found.flops_allowed:.3g} FLOPs, runs of one N on one trunk"
    )
    table = table_with("expected standard error", "a", "log N*", "log L*", "alpha", "beta", "E")
    named: list[tuple[str, Errors]] = [("now", found.before), ("with these runs", found.after)]
    if found.plain is not None:
        named.append((f"with a plain grid of {len(found.plain.N)} runs", found.plain.errors))
    for name, each in named:
        table.add_row(name, *(f"{x:.3g}" for x in (each.a, each.log_N, each.log_L, each.alpha, each.beta, each.E)))
    console.print(table)
    console.print(f"N* and L* at C = {found.C_target:.3g}; noise of a run {found.noise:.2%} of the loss")
    if found.variance_ratio is not None:
        console.print(
            f"the variance of the target ({found.target}) is {found.variance_ratio:.2f} times as large with the plain grid"
        )
    console.print(f"assumed: {found.assumptions}", markup=False)


def _print_overtraining(console: Console, found: Outlook) -> None:
    if found.overtraining is None:
        return
    table = table_with("C", "smaller by", "N", "at the same C: loss", "compute to the same loss", "95 %")
    for each in found.overtraining:
        for i, times in enumerate(each.smaller):
            band = each.same_loss_compute_ci95
            table.add_row(
                f"{each.C:.3g}" if i == 0 else "",
                f"{times:g}x",
                short(each.N[i]),
                f"+{each.same_compute_excess[i]:.3g}",
                _times(each.same_loss_compute[i]),
                "" if band is None else f"{_times(band[i, 0])} to {_times(band[i, 1])}",
            )
    console.print(table)


def _print_warnings(console: Console, warnings: Sequence[Mapping[str, str]]) -> None:
    for warning in warnings:
        console.print(f"warning {warning['code']}: {warning['message']}", markup=False)


def _times(value: float) -> str:
    return f"{value:.3g}x" if value < float("inf") else "never"


def _value(value: float | None, otherwise: str = "none") -> str:
    return otherwise if value is None else f"{value:.4g}"


def _between(low: float | None, high: float | None) -> str:
    return "none" if low is None and high is None else f"{_value(low)} to {_value(high)}"


def _band(band: Any, k: int) -> str:
    return "" if band is None else f"{short(band[k, 0])} to {short(band[k, 1])}"
