"""`sixnd tune`: plan the ladder, train it through the sweep's own driver, extend it, and write the rule and its page."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ...analysis.tuning.ladder import Ladder, climb
from ...analysis.tuning.optima import LadderTable
from ...analysis.tuning.rule import PowerLaw
from ...models.config import ModelConfig
from ...train.corpus.store import Corpus
from ...train.speed import Probed, speeds_of
from ..driver import run_sweep
from ..executors.interface import Executor, Places
from ..ledger.schema import FINAL
from ..ledger.store import FILE, open_ledger
from ..planning.forecast import Forecast, forecast
from ..planning.packing import Packing, can_stack, packing
from ..planning.plan import Plan
from ..show import seconds_in_words, short, table_with, where_is
from ..spec import SweepSpec
from .design import Design, Rates, design
from .rule_file import (
    FOLDER,
    RULE,
    RuleFile,
    check_rule,
    read_rule,
    rule_file,
    tuned_settings,
    worst_excess,
    write_rule,
)

PAGE = "report.html"
Probe = Callable[[set[ModelConfig], int, int], Probed]  # of models at a batch, so many alike


class NotBracketed(Exception):
    """The ladder gave no rule; the message says why, and what is safe."""

    exit_code = 1


def rule_of(sweep: SweepSpec, out: Path) -> RuleFile | None:
    """The rule that the grid of a sweep is to use: None without a [tuning] table, and while its ladder is not finished.

    Raises:
        SpecError: `tuning.rule` cannot be read, or a rule was tuned with other settings.
    """
    if sweep.tuning is None:
        return None
    path = Path(sweep.tuning.rule) if sweep.tuning.rule else out / FOLDER / RULE
    if sweep.tuning.rule is None and not path.is_file():
        return None
    rule = read_rule(path)
    check_rule(rule, path, sweep.train.model_dump(mode="json"))
    return rule


@dataclass(frozen=True)
class LadderCost:
    """A ladder before any extension, and what it takes."""

    design: Design
    plan: Plan
    flops_of_grid: float
    forecast: Forecast
    n_left: int  # runs to train

    def lines(self) -> list[str]:
        models, tuning, time = self.design.models, self.design.tuning, self.forecast
        return [
            f"ladder: {len(models)} rungs (N {', '.join(short(model.n_non_embedding) for model in models)})"
            f" x D {', '.join(map(short, self.design.tokens))} x {len(tuning.lr_factors)} learning rates"
            f" = {len(self.plan.runs)} runs in {len(self.plan.trunks)} trunks, {self.n_left} to train",
            f"  {self.plan.trained_flops:.2e} FLOPs as 6ND, {self.plan.trained_flops / self.flops_of_grid:.0%} of the grid's"
            f" {self.flops_of_grid:.2e}; expected {seconds_in_words(time.makespan_s)} on {time.slots} slots"
            f" ({time.slot_hours:.2g} slot-hours, {time.compile_s:.0f} s of it compilation)",
            "  after it"
            + ", two to four learning rates a rung beside the best ones" * tuning.refine
            + f", up to {tuning.max_extensions} beyond an edge"
            + ", batches" * bool(tuning.batch_factors),
        ]

    def document(self) -> dict[str, Any]:
        """Runs, FLOPs and seconds, for JSON."""
        return {
            "runs": len(self.plan.runs),
            "left": self.n_left,
            "trained_flops": self.plan.trained_flops,
            "forecast": asdict(self.forecast),
        }


@dataclass(frozen=True)
class Tuning:
    """A ladder that is ready to be shown or trained."""

    design: Design
    grid: Plan  # at the published rule
    out: Path  # of the sweep; the ladder's own folder lies in it
    corpora: Path
    probe: Probe

    @classmethod
    def of(cls, sweep: SweepSpec, grid: Plan, corpus: Corpus, out: Path, corpora: Path, probe: Probe) -> Tuning:
        """
        Raises:
            SpecError: there is nothing to tune, or nothing to tune on.
        """
        return cls(design(sweep, grid, corpus), grid, out, corpora, probe)

    @property
    def folder(self) -> Path:
        return self.out / FOLDER

    def cost(self) -> LadderCost:
        """What the ladder takes before any extension; the machine is probed where some of it is left to train."""
        rates = self.design.start()
        plan, seconds = self.design.plan(rates), self.seconds(rates)
        expected = forecast(plan, seconds, 1, compiled=False)
        if seconds:
            device, stacked = self.device(), self.packing().most_stacked or 1
            expected = forecast(plan, seconds, device.slots, device.compiles, stacked)
        return LadderCost(self.design, plan, self.grid.trained_flops, expected, len(seconds))

    def packing(self) -> Packing:
        """How its runs share a GPU: those of a rung are of one shape, whatever their learning rates."""
        sweep = self.design.sweep
        batch_tokens = sweep.train.batch_tokens
        return packing(self.device(), self.design.models, batch_tokens, self.grid.precision, sweep.workers, self.alike)

    @property
    def alike(self) -> int:
        """Runs of a rung that one program may train at once."""
        tuning = self.design.tuning
        return len(tuning.lr_factors) * len(tuning.seeds) if can_stack(self.design.sweep) else 1

    def seconds(self, rates: Rates) -> dict[str, float]:
        """Expected seconds of each run that is not finished, at the speed of the sweep's own batch."""
        done, plan = frozenset(self.records()), self.design.plan(rates)
        if done.issuperset(run.key for run in plan.runs):
            return {}
        return plan.seconds(speeds_of(self.design.models, self.device().speeds), done)

    def device(self) -> Probed:
        """What trains the ladder, its models probed at the sweep's own batch."""
        return self.probe(set(self.design.models), self.design.sweep.train.batch_tokens, self.alike)

    def records(self) -> dict[str, Any]:
        """The finished rows of the ladder's ledger, by key."""
        if not (self.folder / FILE).is_file():
            return {}
        ledger = open_ledger(self.folder)
        try:
            return {row["key"]: row for row in ledger.rows() if row["state"] in FINAL}
        finally:
            ledger.close()

    def train(self, open_executor: Callable[[Places], Executor], console: Console) -> RuleFile:
        """Trains what the ladder's ledger does not hold, extends it until its optima are bracketed, and writes the rule.

        Raises:
            NotBracketed: no rung is, or some runs failed.
            SpecError: the folder's runs were trained with other settings.
            Interrupted: Ctrl-C.
        """
        rates = self.design.start()
        while True:
            plan = self.design.plan(rates)
            run_sweep(self.design.sweep, plan, self.folder, self.corpora, open_executor, self.seconds(rates))
            found = self.records()
            if missing := sum(run.key not in found for run in plan.runs):
                raise NotBracketed(
                    f"{missing} of {len(plan.runs)} runs of the ladder failed; the others are safe in"
                    f" {where_is(self.folder / FILE)}, and the same command tries again"
                )
            rows = [_ladder_row(found[run.key]) for run in plan.runs]
            wider = self.design.extended(rates, LadderTable.of(rows))
            if wider == rates:
                break
            console.print(_what_is_added(rates, wider), markup=False)
            rates = wider
        ladder = climb(LadderTable.of(rows))
        settings = self.design.sweep.train
        rule = rule_file(ladder, rows, self.design.corpus.hash, settings.model_dump(mode="json"), settings.batch_tokens)
        console.print(ladder_table(ladder))
        for note in ladder.notes:
            console.print(note, markup=False)
        if rule is None:
            raise NotBracketed(
                "no rung's best learning rate is bracketed: raise tuning.max_extensions; no rule is written"
            )
        write_rule(self.folder / RULE, rule)
        for line in (*rule_lines(rule), excess_line(rule, self.grid)):
            console.print(line, markup=False, highlight=False)
        # In a process of its own: the driver never loads plotly.
        command = [sys.executable, "-m", "sixnd.sweeps.tuning.page", str(self.folder), self.design.sweep.name]
        if subprocess.run(command, check=False).returncode == 0:
            console.print(f"rule: {where_is(self.folder / RULE)}; page: {where_is(self.folder / PAGE)}", markup=False)
        return rule


def _ladder_row(row: Mapping[str, Any]) -> dict[str, float | None]:
    """What the analysis needs of a finished run of the ledger; its test_loss is that of the validation side."""
    named = {"N": "N_non_embedding", "D": "D", "batch": "batch_tokens", "lr": "lr", "loss": "test_loss"}
    return {name: row[column] for name, column in named.items()}


def _what_is_added(before: Rates, after: Rates) -> str:
    lines = []
    for (model, batch), lrs in after.items():
        if added := [lr for lr in lrs if lr not in before.get((model, batch), ())]:
            where = f"N {short(model.n_non_embedding)}, batch {batch:,}"
            lines.append(f"ladder extended at {where}: learning rate {', '.join(f'{lr:.2g}' for lr in added)}")
    return "\n".join(lines)


def ladder_table(ladder: Ladder) -> Table:
    """A row for each (N, D)."""
    table = table_with(
        "N no emb.", "D", "batch", "best lr", "± octaves", "loss", "nats/octave²", "rule's lr", "costs", ""
    )
    for cell in ladder.cells:
        inside = cell.status == "interior"
        rule = ladder.lr.value(cell.N, cell.D, cell.batch) if ladder.lr else None
        off = math.log2(rule) - cell.log2_lr if rule else math.nan
        table.add_row(
            short(cell.N),
            short(cell.D),
            f"{cell.batch:,.0f}",
            f"{cell.lr:.2e}",
            f"{cell.se:.2f}" if inside else "",
            f"{cell.loss:.4f}",
            f"{cell.curvature:.3f}" if inside else "",
            f"{rule:.2e}" if rule else "",
            f"{cell.curvature * off**2:.4f}" if inside else "",
            "" if inside else f"not bracketed: {cell.status}",
        )
    return table


def rule_lines(rule: RuleFile) -> list[str]:
    """The rule in words, and how well it holds."""

    def said(name: str, law: PowerLaw) -> str:
        terms = "".join(
            f" · {which}^({law.exponent(which):+.3f} ± {law.exponent_se(which):.3f})" for which in law.fitted
        )
        left_out = f", rungs left out are predicted within {law.left_out_octaves:.2f} octaves" if law.left_out_octaves is not None else ""  # fmt: skip
        freedom = f"chi2/dof {law.chi2 / law.dof:.2f}" if law.dof else "no degree of freedom left"
        return f"{name} = {law.coefficient:.3g}{terms}   ({freedom}{left_out})"

    lines = [said("lr", rule.lr), *([said("batch", rule.batch)] if rule.batch else [])]
    batch = "B in tokens of a batch" if "B" in rule.lr.fitted else f"lr at batch {rule.batch_tokens:,}"
    lines.append(f"noise of one run {rule.noise:.4f} nats; N without embeddings, D in tokens, {batch}")
    return lines


def excess_line(rule: RuleFile, grid: Plan) -> str:
    """What the rule is expected to cost on the row of the grid where it costs most."""
    rows: dict[ModelConfig, set[int]] = {}
    for run in grid.runs:
        rows.setdefault(run.model, set()).add(run.tokens)
    costs = {model: worst_excess(rule, model, sorted(tokens)) for model, tokens in rows.items()}
    worst = max(costs, key=lambda model: costs[model])
    return (
        f"one learning rate for all D of a row costs {costs[worst]:.4f} nats at worst (N {short(worst.n_non_embedding)},"
        f" lr {tuned_settings(rule, worst, sorted(rows[worst]))[0]:.2e}), the rule's own error included"
    )
