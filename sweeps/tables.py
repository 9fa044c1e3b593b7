"""Tables for the terminal: the runs during and after, the law."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import isfinite
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from ..train.progress import Progress
from .show import short, table_with

if TYPE_CHECKING:  # it imports scipy, which a table of runs has no need of
    from ..analysis.fit import Fit


def runs_table(rows: Sequence[Mapping[str, Any]], live: Mapping[str, Progress]) -> Table:
    """One row a run of the ledger, with what the running ones are doing now."""
    table = table_with("layers x width", "N", "D", "seed", "state", "test loss", "± SE", "bits/byte", "tok/s")
    for row in rows:
        progress = live.get(row["key"]) if row["state"] == "running" else None
        state = f"running {progress.tokens / progress.total:.0%}" if progress else row["state"]
        speed = progress.tokens_per_s if progress else row["tokens_per_s"]
        table.add_row(
            f"{row['n_layers']} x {row['d_model']}",
            short(row["N_total"]),
            short(row["D"]),
            str(row["seed"]),
            state,
            f"(train {progress.loss:.3f})" if progress else _number(row["test_loss"], ".4f"),
            _number(row["test_loss_se"], ".4f"),
            _number(row["bits_per_byte"], ".4f"),
            _number(speed, ",.0f"),
        )
    return table


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def loss_grid(rows: Sequence[Mapping[str, Any]]) -> tuple[Table, bool]:
    """Mean test loss by N and D of the finished runs, and whether it falls along every row and every column."""
    cells: dict[tuple[int, int], list[float]] = {}
    for row in rows:
        if row["state"] == "done":
            cells.setdefault((row["N_total"], row["D"]), []).append(row["test_loss"])
    means = {cell: sum(losses) / len(losses) for cell, losses in cells.items()}
    ns, ds = sorted({n for n, _ in means}), sorted({d for _, d in means})
    table = Table("N \\ D", *(short(d) for d in ds), box=None, pad_edge=False)
    for n in ns:
        table.add_row(short(n), *(_number(means.get((n, d)), ".3f") for d in ds))
    lines = [[means[n, d] for d in ds if (n, d) in means] for n in ns]
    lines += [[means[n, d] for n in ns if (n, d) in means] for d in ds]
    falls = all(later < earlier for line in lines for earlier, later in pairwise(line))
    return table, falls


def law_in_numbers(fit: Fit) -> str:
    """The law of five parameters in one line, with how well the runs agree with it."""
    p, rms = fit.params, float((fit.residuals**2).mean() ** 0.5)
    return (
        f"L(N, D) = {p['A']:.3g}/N^{p['alpha']:.3f} + {p['B']:.3g}/D^{p['beta']:.3f} + {p['E']:.3f}"
        f"   ({fit.n_runs} runs, residual RMS {rms:.2%} in log loss)"
    )


def print_fit(console: Console, fit: Fit) -> None:
    """The law with its intervals, what certifies it, the frontier at a few budgets, and every warning."""
    from ..analysis.summary import certificate, estimates

    console.print(fit.model.formula, markup=False)
    table = Table("", "estimate", "95 % interval", box=None, pad_edge=False)
    for row in estimates(fit):
        table.add_row(*row)
    console.print(table)
    console.print(certificate(fit), markup=False)
    points = fit.frontier.budgets
    if isfinite(fit.frontier.a):
        budgets = Table("budget C", "N*", "D*", "loss", box=None, pad_edge=False)
        for c, n, d, loss in zip(points.C, points.N, points.D, points.loss, strict=True):
            budgets.add_row(f"{c:.2g} FLOPs", short(n), short(d), f"{loss:.3f}")
        console.print(budgets)
    for warning in fit.warnings:
        console.print(f"warning {warning.code}: {warning.message}", markup=False, highlight=False)
