"""The commands about budgets: `sixnd frontier` and `sixnd next`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from .corpus import console
from .options import PLAIN, Columns, JsonOut, output


def frontier(
    fit_json: Path,
    *,
    flops: Annotated[tuple[float, ...], Parameter(negative="")] = (),
    budget: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    unique_tokens: str | None = None,
    mfu: float | None = None,
    peak: float | None = None,
    dollars_per_hour: float | None = None,
    json_out: JsonOut = None,
) -> None:
    """The compute-optimal N, D and loss at budgets, with bands; what over-training costs; and where unique text runs out.

    Example: `sixnd frontier fit.json --budget "$500" --budget "200 GPU-hours"`, or `... --flops 1e21`

    Parameters
    ----------
    fit_json
        What `sixnd fit --json` wrote.
    flops
        C = 6ND; may be given several times. Without any budget: those of the fit.
    budget
        FLOPs, dollars or GPU time, such as "2 PF-days", "$500", "200 GPU-hours"; may be given several times.
    unique_tokens
        The stock of unique tokens for the data wall; by default the world's high-quality text.
    mfu
        The share of the peak that training reaches.
    peak
        FLOP/s of one GPU.
    dollars_per_hour
        Rent of one GPU.
    """
    from ...analysis.budgets.budget import H100, Machine, flops_of
    from ...analysis.budgets.outlook import outlook
    from ...analysis.predict import load_fit
    from ..spec import count_option
    from .law_tables import print_outlook

    machine = Machine(
        peak=H100.peak if peak is None else peak,
        mfu=H100.mfu if mfu is None else mfu,
        dollars_per_hour=H100.dollars_per_hour if dollars_per_hour is None else dollars_per_hour,
    )
    budgets = [flops_of(text, machine) for text in (*(f"{C:.15g}" for C in flops), *budget)]
    stock = None if unique_tokens is None else float(count_option("--unique-tokens", unique_tokens))
    found = outlook(load_fit(fit_json), budgets, machine, stock)
    if json_out is None:
        print_outlook(console, found)
    output(json_out, found.to_json(), "frontier")


def next_runs(
    table: Path,
    *,
    flops: str,
    target: Literal["a", "N", "L", "det"] = "a",
    target_flops: str | None = None,
    cooldown: float = 0.2,
    most_tokens: str | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    columns: Columns = PLAIN,
    json_out: JsonOut = None,
) -> None:
    """Say which runs to train next: those that tell most about the frontier for the compute, beside a plain grid of equal cost.

    Example: `sixnd next sweeps-out/demo --flops 2e15 --target N`

    Parameters
    ----------
    table
        A sweep's folder or its ledger, or another table of runs.
    flops
        The budget of the new runs, such as 2e15, "$5" or "3 GPU-hours"; runs of one N share a trunk.
    target
        What to pin down: a, N (log N* at --target-flops), L (log loss there) or det (all parameters).
    target_flops
        The compute that N and L are meant at; ten times the largest run's by default.
    cooldown
        Share of D that a run does not share with its trunk; 1 where nothing is shared.
    most_tokens
        The largest D, such as the unique tokens of the corpus.
    bootstrap
        Resamples behind the noise and the spread of laws.
    seed
        Of the resamples.
    """
    from ...analysis.budgets.budget import flops_of
    from ...analysis.fit import fit as fit_law
    from ...analysis.study import next_design
    from ...analysis.tables.table import read_table
    from ..spec import count_option
    from .law_tables import print_design

    fitted = fit_law(read_table(table, **asdict(columns)), bootstrap=bootstrap, seed=seed)
    found = next_design(
        fitted,
        flops_of(flops).flops,
        target=target,
        C_target=None if target_flops is None else flops_of(target_flops).flops,
        cooldown=cooldown,
        most_tokens=float("inf") if most_tokens is None else float(count_option("--most-tokens", most_tokens)),
    )
    if json_out is None:
        print_design(console, found)
    output(json_out, found.to_json(), "next runs")
