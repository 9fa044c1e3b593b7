"""The tables of a study: laws compared, the three methods, metrics, over-training, the data wall."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..budgets.datawall import DataWall
from ..budgets.overtrain import OverTraining
from ..fit import Fit
from ..forecasts.compare import Comparison
from ..laws import Array
from ..methods.metrics import MetricStudy
from ..study import Study, stack_weights
from .estimates import estimates
from .numbers import count, flops, rounded, rounded_interval

CellText = tuple[str, str]  # a value, and what stands under it in small


@dataclass(frozen=True)
class Table:
    """The first column heads its rows; the others are numbers."""

    id: str
    section: str
    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[CellText, ...], ...]
    note: str


def study_tables(fit: Fit, study: Study | None) -> list[Table]:
    """Every table that the fit and the study allow."""
    made = [estimates_table(fit, study)]
    if study is None:
        return made
    if study.comparison is not None:
        made.append(comparison_table(study.comparison, study))
    if study.isoflop is not None or study.envelope is not None:
        made.append(methods_table(study))
    if study.metrics is not None:
        made.append(metrics_table(study.metrics))
    if study.overtraining is not None:
        made.append(overtraining_table(study.overtraining))
    if study.data_wall is not None:
        made += [wall_table(study.data_wall), repeating_table(study.data_wall)]
    return made


def estimates_table(fit: Fit, study: Study | None) -> Table:
    rows = estimates(fit, study)
    ahead = [row.name for row in rows if row.name.endswith("*")]
    budget = f" {' and '.join(ahead)}: at ten times the largest compute of these runs." if ahead else ""
    return Table(
        "estimates", "uncertainty", "Estimates",
        ("", "estimate", "standard error", "bootstrap 95 %", "profile 95 %"),
        tuple(tuple((cell, "") for cell in row.cells) for row in rows),
        f"The bootstrap shows how far the optimum moves with other runs, a profile which values fit these runs almost as well.{budget}",
    )  # fmt: skip


def comparison_table(found: Comparison, study: Study) -> Table:
    rows = []
    for score in found.scores:
        behind = "best" if score is found.best else f"+{score.behind:.4f}"
        spread = "" if score.behind_se is None else f"± {score.behind_se:.4f}"
        rms = "—" if score.rms is None else f"{100 * score.rms:.2f} %"
        rows.append(
            ((score.law.replace("_", " "), ""), (f"{score.score:.4f}", ""), (behind, spread), (f"{100 * score.coverage:.0f} %", ""),
             (f"{100 * score.error:.2f} %", ""), (rms, ""))
        )  # fmt: skip
    weights = ""
    if study.forecast is not None:
        shares = stack_weights(study.fit)
        told = ", ".join(f"{name.replace('_', ' ')} {100 * share:.0f} %" for name, share in shares.items())
        weights = f" The predictive intervals of this report stack {told}."
    folds = ", ".join(flops(C) for C in found.trained)
    return Table(
        "comparison", "prediction", "Which law forecasts best",
        ("law", "interval score", "behind the best", f"coverage of {100 * found.level:.0f} %", "median error", "RMS residual in sample"),
        tuple(rows),
        f"Each law was fitted to the runs of at most {folds} FLOPs in turn and scored on the rest; a smaller score is better, in log loss. The "
        f"residual in sample says little about forecasts.{weights}",
    )  # fmt: skip


def methods_table(study: Study) -> Table:
    edge = study.fit.frontier
    rows = [_method("the law", edge.a, edge.a_ci95, "fitted to all runs")]
    if study.isoflop is not None:
        found = study.isoflop
        rows.append(_method("IsoFLOP parabolas", found.a, found.a_ci95, f"{len(found.parabolas)} budgets"))
        if study.isoflop_bias is not None:
            bias = study.isoflop_bias.a
            ends = None if found.a_ci95 is None else (found.a_ci95[0] - bias, found.a_ci95[1] - bias)
            rows.append(_method("IsoFLOP, bias removed", found.a - bias, ends, f"bias {bias:+.3f}"))
    if study.envelope is not None:
        curves = study.envelope
        share = f"{100 * curves.share_at_edge:.0f} % of the budgets left out at the edge"
        rows.append(_method("envelope of training curves", curves.a, curves.ci95["a"] if curves.ci95 else None, share))
    aside = "" if study.isoflop is None else _aside(study.isoflop.set_aside)
    return Table(
        "methods-a", "methods-compared", "The exponent a by each method",
        ("method", "a", "95 %", "from"), tuple(rows),
        "The bias of the parabolas is what they find on the noiseless law at the same N and D, less the a of that law (arXiv 2603.22339)."
        f"{aside}",
    )  # fmt: skip


def metrics_table(study: MetricStudy) -> Table:
    rows = [
        ((metric.name, ""), (f"{metric.r2:.3f}", ""), (f"{metric.max_error:.3g}", ""), (_or_dash(metric.effective_tokens, "{:.2f}"), ""),
         (_or_dash(metric.r2_independent, "{:.3f}"), ""), (_or_dash(metric.last_decade, "{:.0%}"), ""))
        for metric in study.metrics
    ]  # fmt: skip
    summary = f"{study.summary[:1].upper()}{study.summary[1:]}".rstrip(".")
    return Table(
        "metrics-table", "metrics", "How well the loss foretells each metric",
        ("metric", "R²", "largest error", "exponent e of pᵉ", "R² of pᵏ", "rise in the last decade"), tuple(rows),
        f"{summary}. With p the per-token accuracy, a match of k independent tokens would have the probability pᵏ; e is the exponent that fits. "
        "After Schaeffer et al. 2023, arXiv 2304.15004.",
    )  # fmt: skip


def overtraining_table(found: OverTraining) -> Table:
    rows = []
    for i, times in enumerate(found.smaller):
        reached = np.isfinite(found.same_loss_compute[i])
        compute = (
            (f"{found.same_loss_compute[i]:.3g}×", _band(found.same_loss_compute_ci95, i, "{:.3g}×"))
            if reached
            else ("never", "")
        )
        rows.append(
            ((f"{times:g}× smaller", ""), (count(found.N[i]), ""), (count(found.same_compute_D[i]), ""),
             (f"+{found.same_compute_excess[i]:.4f}", _band(found.same_compute_excess_ci95, i, "{:.4f}")),
             compute, (count(found.same_loss_D[i]) if reached else "—", ""))
        )  # fmt: skip
    return Table(
        "overtraining", "planning", "The price of a smaller model",
        ("model", "N", "D at the same compute", "loss at the same compute", "compute to the same loss", "D to the same loss"), tuple(rows),
        f"Against the best model for {flops(found.C)} FLOPs, with a loss of {found.loss:.4f}. However long it trains, no model more than "
        f"{found.most_smaller:.3g} times smaller reaches that loss. Under the numbers: 95 % intervals.",
    )  # fmt: skip


def wall_table(found: DataWall) -> Table:
    rows = [
        ((f"{end} end of the stock", ""), (count(wall.unique_tokens), ""), (flops(wall.C), _ends(wall.C_ci95, flops)), (count(wall.N), ""),
         (f"{wall.least_loss:.3f}", ""))
        for end, wall in (("low", found.low), ("high", found.high))
    ]  # fmt: skip
    return Table(
        "data-wall", "planning", "The data wall",
        ("unique tokens", "tokens", "compute at the wall", "N* there", "least loss by repeating"), tuple(rows),
        f"The wall is the compute at which the best D exceeds the stock: {found.stock.source}. {found.assumptions}.",
    )  # fmt: skip


def repeating_table(found: DataWall) -> Table:
    repeated = found.low.repeating
    rows = [
        ((flops(C), ""), (count(repeated.N[i]), ""), (f"{repeated.epochs[i]:.1f}", _band(repeated.epochs_ci95, i, "{:.1f}")),
         (f"{repeated.loss[i]:.3f}", _band(repeated.loss_ci95, i, "{:.3f}")), (f"{repeated.price[i]:.3f}", _band(repeated.price_ci95, i, "{:.3f}")))
        for i, C in enumerate(repeated.C)
    ]  # fmt: skip
    return Table(
        "repeating", "planning", "Beyond the wall, repeating the low end of the stock",
        ("compute, FLOPs", "N", "epochs", "loss", "lost to the wall"), tuple(rows),
        "The best number of epochs by the law of Muennighoff et al. 2023, arXiv 2305.16264, beside the loss with unlimited data.",
    )  # fmt: skip


def _method(name: str, a: float, interval: tuple[float, float] | None, origin: str) -> tuple[CellText, ...]:
    ends = "—" if interval is None else rounded_interval(interval)
    return (name, ""), (rounded(a, interval), ""), (ends, ""), (origin, "")


def _aside(lines: Sequence[str]) -> str:
    """The first reason stands for the others, of which there may be dozens."""
    if not lines:
        return ""
    more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
    return f" Set aside: {lines[0]}{more}."


def _or_dash(value: float | None, form: str) -> str:
    return "—" if value is None or not np.isfinite(value) else form.format(value)


def _band(band: Array | None, row: int, form: str) -> str:
    return "" if band is None else _ends(band[row], form.format)


def _ends(band: Array | None, show: Callable[[float], str]) -> str:
    """Both ends of an interval (2,); infinity is what no run ever reaches."""
    return "" if band is None else " to ".join(show(float(end)) if np.isfinite(end) else "never" for end in band)
