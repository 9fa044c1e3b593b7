"""One `plan` or `run` from the command line: load, resolve, forecast, train, conclude."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from ..models.config import ModelConfig
from ..train.corpus.build import build_corpus, built_corpus, corpora_root, open_corpus
from ..train.corpus.spec import CorpusSpec
from ..train.corpus.store import Corpus
from ..train.machine import NO_COMPILER, has_compiler, how_trained, usable_cores
from ..train.memory import training_bytes
from ..train.speed import Probed, device_facts, probed, speeds_of
from .conclusion import conclude
from .driver import elapsed, refuse_other_settings, run_sweep
from .executors.interface import Executor, Places
from .ledger.store import FILE, Ledger, open_ledger
from .own_process import in_own_process
from .planning.forecast import forecast
from .planning.packing import Packing, alike_in, can_stack, in_turns, packing_of
from .planning.plan import Plan, make_plan
from .planning.shrink import Purse, shrink
from .planning.table import Costed, left_out, plan_document, plan_lines, plan_table, worth_lines
from .planning.worth import Guess, Worth, guess_of, worth_of
from .precision import emulated, with_precision
from .show import aloud, where_is
from .spec import SpecError, SweepSpec, load_sweep, parse_budget
from .tuning.run import LadderCost, Tuning, rule_of


@dataclass(frozen=True)
class Session:
    """A sweep that is ready to be shown or trained: `plan` is what its budget leaves of `grid`."""

    sweep: SweepSpec
    corpus: Corpus
    grid: Plan
    plan: Plan
    out: Path
    corpora: Path
    finished: frozenset[str]
    costed: Costed
    device: str
    guess: Guess
    packing: Packing
    say: Callable[[str], None]

    @property
    def ladder(self) -> LadderCost | None:
        """What the ladder of its [tuning] table takes, while that has no rule yet."""
        return None if self.sweep.tuning is None or self.plan.rule else tuning_of(self).cost()

    def show(self, console: Console) -> None:
        """The table, what it costs with its ladder, and what a budget left out."""
        ladder = self.ladder  # which refuses what cannot be tuned, before anything is shown
        tuning = ladder.lines() if ladder else []
        console.print(plan_table(self.costed))
        for line in [*plan_lines(self.costed, self.device), *left_out(self.grid, self.plan), *tuning]:
            console.print(line, markup=False)

    def worth(self) -> tuple[Worth | None, Worth | None]:
        """Expected errors with the plan, and with the whole grid where a budget cut it."""
        worth = in_own_process(worth_of, self.plan, self.guess)
        whole = len(self.plan.runs) == len(self.grid.runs)
        return worth, None if whole else in_own_process(worth_of, self.grid, self.guess)

    def show_worth(self, console: Console) -> None:
        worth, before = self.worth()
        for line in worth_lines(worth, self.guess, before):
            console.print(line, markup=False)

    def document(self) -> dict[str, Any]:
        """What `sixnd plan --json` writes."""
        ladder = self.ladder
        head = {"name": self.sweep.name, "device": self.device, "tuning": ladder.document() if ladder else None}
        return head | plan_document(self.costed, self.worth()[0], self.guess)


def prepare(
    spec: str,
    overrides: tuple[str, ...],
    out: Path | None,
    corpora: Path | None,
    say: Callable[[str], None] = aloud,
    *,
    budget: str | None = None,
    fit: str | None = None,
    noise: float | None = None,
    to_train: bool = False,
) -> Session:
    """Everything up to training; builds the corpus where it is not built yet.

    Args:
        say: told how the corpus is built, in another process: a function of a module.
        budget: '2h', '90m' or '1e18', in place of the spec's.
        fit: a fit.json whose law and noise the grid is judged under.
        noise: standard deviation of log L between equal runs, in place of the fit's.
        to_train: refuses a folder whose runs have other settings, before anything is measured; a plan may ask what if.

    Raises:
        SpecError, CorpusError, LedgerError: one line for each thing that is wrong.
    """
    sweep = load_sweep(spec, overrides)
    if budget is not None:
        sweep = sweep.model_copy(update={"budget": parse_budget(budget)})
    guess = guess_of(None, noise) if fit is None else in_own_process(guess_of, fit, noise)
    folder, root = out or Path("sweeps-out") / sweep.name, corpora_root(corpora)
    sweep = with_precision(sweep, folder)
    corpus = built_corpus(sweep.corpus, root) or open_corpus(in_own_process(_build, sweep.corpus, root, say))
    grid = make_plan(sweep, corpus, rule=rule_of(sweep, folder))
    if to_train and (grid.rule or not sweep.tuning) and (folder / FILE).is_file():
        _refuse_others(sweep, folder, grid.rule)
    past = _Past.of(folder, sweep)
    plan = grid if past.chosen is None else grid.only(past.chosen)
    if past.finished.issuperset(key for trunk in plan.trunks for key in trunk.keys):
        nothing = forecast(plan, {}, 0, compiled=False)
        costed = Costed(plan, {}, nothing, "cpu", corpus.manifest.test.documents)
        pack = Packing(sweep.workers or usable_cores())
        return Session(sweep, corpus, grid, plan, folder, root, past.finished, costed, "", guess, pack, say)
    device, speeds = _speeds(sweep, grid, past, say)
    if warning := emulated(grid.precision, device.precision, device.device):
        say(warning)
    if past.chosen is None and (sweep.budget.hours or sweep.budget.flops):
        stacked = packing_of(sweep, grid, device).most_stacked or 1
        purse = Purse(sweep.budget, speeds, device.slots, device.compiles, stacked)
        plan = grid.only(in_own_process(shrink, sweep.name, grid, purse, guess))
    refuse_too_large(sweep, plan, device)
    pack = packing_of(sweep, plan, device)
    seconds = plan.seconds(speeds, past.finished)
    expected = forecast(plan, seconds, device.slots, device.compiles, pack.most_stacked or 1)
    costed = Costed(plan, seconds, expected, device.kind, corpus.manifest.test.documents)
    return Session(sweep, corpus, grid, plan, folder, root, past.finished, costed, device.device, guess, pack, say)


def _refuse_others(sweep: SweepSpec, folder: Path, rule: str | None) -> None:
    ledger = open_ledger(folder)
    try:
        refuse_other_settings(ledger, sweep, folder, rule)
    finally:
        ledger.close()


def _build(spec: CorpusSpec, root: Path, say: Callable[[str], None]) -> str:
    """Builds a corpus and returns its folder. Elsewhere, for it leaves 400 MB behind that a driver has no use for."""
    return str(build_corpus(spec, root, say).path)


@dataclass(frozen=True)
class _Past:
    """What the sweep's folder knows already: finished runs, speeds by device and shape, and the cells once chosen."""

    finished: frozenset[str] = frozenset()
    tokens_per_s: Mapping[tuple[str, int, int], float] = field(default_factory=dict)
    chosen: frozenset[str] | None = None

    @classmethod
    def of(cls, folder: Path, sweep: SweepSpec) -> _Past:
        if not (folder / FILE).is_file():
            return cls()
        ledger = open_ledger(folder)
        try:
            chosen = ledger.meta(_choice(sweep))
            speeds: dict[tuple[str, int, int], list[float]] = {}
            for device, n_layers, d_model, speed in ledger.speeds():
                speeds.setdefault((device, n_layers, d_model), []).append(speed)
            medians = {shape: median(values) for shape, values in speeds.items()}
            return cls(ledger.finished_keys(), medians, None if chosen is None else frozenset(json.loads(chosen)))
        finally:
            ledger.close()


def _choice(sweep: SweepSpec) -> str:
    """Under which name a ledger keeps the cells that a budget left: another grid or budget chooses anew."""
    asked = json.dumps([sweep.grid(), sweep.budget.model_dump(mode="json")], sort_keys=True)
    return f"cells {hashlib.sha256(asked.encode()).hexdigest()[:16]}"


def _speeds(
    sweep: SweepSpec, grid: Plan, past: _Past, say: Callable[[str], None]
) -> tuple[Probed, dict[ModelConfig, float]]:
    """The device, and tokens/s of each model: from the sweep's own runs on it where there are any, else from the probe."""
    models, batch_tokens = {run.model for run in grid.runs}, sweep.train.batch_tokens
    if past.tokens_per_s:
        device = in_turns(sweep, device_facts(sweep.workers))
        how = how_trained(device.device, device.compiled, grid.precision)
        by_shape = {(model.n_layers, model.d_model): model for model in models}
        measured = {
            by_shape[n_layers, d_model]: speed
            for (name, n_layers, d_model), speed in past.tokens_per_s.items()
            if f"{name},".startswith(f"{how},") and (n_layers, d_model) in by_shape  # stacked runs say so behind it
        }
        if measured:
            return device, speeds_of(models, measured)
    device = in_turns(sweep, probed(models, batch_tokens, grid.precision, sweep.workers, alike_in(sweep), say))
    return device, speeds_of(models, device.speeds)


def refuse_too_large(sweep: SweepSpec, plan: Plan, device: Probed) -> None:
    """Raises SpecError, a line for each model that does not fit the device, or where those that run at once do not."""
    models = {run.model for run in plan.runs}
    needs = {model: training_bytes(model, sweep.train.batch_tokens, device.kind, plan.precision) for model in models}
    problems = [
        f"{sweep.name}: {'isoflop' if sweep.isoflop else 'shapes or params'}: N = {model.n_total:,} needs {need / 1e9:.1f} GB,"
        f" and {device.device} has {device.memory_bytes / 1e9:.1f} GB"
        for model, need in sorted(needs.items(), key=lambda item: item[1])
        if need > device.memory_bytes
    ]
    at_once = sorted((needs[run.model] for run in plan.runs), reverse=True)[: device.slots]  # of one trunk even
    if device.kind == "cpu" and not problems and sum(at_once) > device.memory_bytes:
        fit = next(n for n in range(len(at_once), 0, -1) if sum(at_once[:n]) <= device.memory_bytes)
        problems.append(
            f"{sweep.name}: workers = {device.slots}: the largest runs together need {sum(at_once) / 1e9:.1f} GB, and the machine"
            f" has {device.memory_bytes / 1e9:.1f} GB: give workers = {fit}"
        )
    if problems:
        raise SpecError("\n".join(problems))


def train_and_report(session: Session, bootstrap: int, console: Console) -> None:
    """Trains what is missing, then fits and reports.

    Raises:
        Interrupted: Ctrl-C.
        SpecError: the folder belongs to another sweep or another driver.
    """
    start = time.perf_counter()
    seconds = session.costed.seconds
    if seconds:
        session.show(console)
        if not has_compiler():
            console.print(NO_COMPILER)
    else:
        console.print(f"all {len(session.plan.runs)} runs are in {where_is(session.out / FILE)}: nothing to train")
    if others := len(session.finished - {key for trunk in session.plan.trunks for key in trunk.keys}):
        console.print(
            f"{others} finished runs of this ledger are not in the plan; they stay, and the law is fitted to them too"
        )
    if session.plan is not session.grid:
        _keep_choice(session)
    hours = session.sweep.budget.hours
    executor = executor_of(session.sweep, lambda: session.packing)
    run_sweep(session.sweep, session.plan, session.out, session.corpora, executor, seconds, hours)
    if seconds:
        console.print(f"trained in {elapsed(start)}")
    from .results import analyse

    conclude(session.out, analyse(session.out, session.corpora, bootstrap), console)


def _keep_choice(session: Session) -> None:
    """So that the same command goes on with the same cells, whatever the next probe measures."""
    ledger = Ledger(session.out / FILE)
    try:
        ledger.set_meta(_choice(session.sweep), json.dumps(sorted(run.key for run in session.plan.runs)))
    finally:
        ledger.close()


def executor_of(sweep: SweepSpec, packing: Callable[[], Packing]) -> Callable[[Places], Executor]:
    """What trains the runs of a sweep, as its spec says; `packing` is asked once there is something to train here."""
    if sweep.executor == "local":
        from .executors.local import LocalExecutor

        def local(places: Places) -> Executor:
            packed = packing()
            return LocalExecutor(packed.slots, places, packed.most_stacked or 1)

        return local
    from .executors.ray import RayExecutor

    def on_ray(places: Places) -> Executor:
        most_stacked = packing().most_stacked if can_stack(sweep) else 1
        return RayExecutor(places, most_stacked=most_stacked, **sweep.ray.model_dump())

    return on_ray


def tuning_of(session: Session) -> Tuning:
    """The session's ladder.

    Raises:
        SpecError: there is nothing to tune, or nothing to tune on.
    """
    sweep = session.sweep

    grid = make_plan(sweep, session.corpus)

    def probe(models: set[ModelConfig], batch_tokens: int, alike: int) -> Probed:
        return in_turns(sweep, probed(models, batch_tokens, grid.precision, sweep.workers, alike, session.say))

    return Tuning.of(sweep, grid, session.corpus, session.out, session.corpora, probe)
