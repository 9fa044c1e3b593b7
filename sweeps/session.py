"""One `plan` or `run` from the command line: load, resolve, forecast, train, conclude."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..train.corpus.build import build_corpus, corpora_root
from ..train.corpus.contamination import CLEAN_BELOW
from ..train.corpus.store import Corpus
from ..train.device import usual_slots
from ..train.machine import has_compiler
from ..train.probe import probe_tokens_per_s
from .driver import elapsed, refuse_other_settings, run_sweep
from .executors.local import LocalExecutor
from .ledger.store import FILE, open_ledger
from .planning.plan import Plan, make_plan
from .results import Results, analyse
from .show import seconds_in_words, short, where_is
from .spec import SweepSpec, load_sweep
from .tables import loss_grid, plan_table, print_fit

COMPILE_S = 12.0  # first compilation of one width on one core; cached on disk afterwards


class Failed(Exception):
    """Something failed that is not the input's fault; the message says what is safe."""

    exit_code = 1


@dataclass(frozen=True)
class Session:
    """A sweep that is ready to be shown or trained."""

    sweep: SweepSpec
    corpus: Corpus
    plan: Plan
    out: Path
    corpora: Path
    n_slots: int
    finished: frozenset[str]
    seconds: dict[str, float]  # by key, of each run that is not finished

    def table(self) -> Table:
        return plan_table(self.plan, self.seconds, self.finished)

    def forecast(self) -> str:
        """The whole sweep in two lines."""
        flops = sum(6 * run.model.n_total * run.tokens for run in self.plan.runs)
        widths = len({(run.model.d_model, run.model.n_heads) for run in self.plan.runs if run.key not in self.finished})
        compilation = COMPILE_S * widths if has_compiler() else 0.0
        longest_trunk = max(
            (sum(self.seconds.get(run.key, 0.0) for run in trunk.runs) for trunk in self.plan.trunks), default=0.0
        )
        expected = max((sum(self.seconds.values()) + compilation) / self.n_slots, longest_trunk)
        todo = len(self.seconds)
        return (
            f"{len(self.plan.runs)} runs in {len(self.plan.trunks)} trunks, {todo} to train; {flops:.2e} FLOPs as 6ND;"
            f" shared trunks save {self.plan.trunk_saving:.2f}x of the tokens\n"
            f"expected {seconds_in_words(expected)} on {self.n_slots} workers of one thread"
            f" (speed probed on this machine{f', with {compilation:.0f} CPU-seconds of compilation' if todo else ''})"
        )


def prepare(
    spec: str, overrides: tuple[str, ...], out: Path | None, corpora: Path | None, say: Callable[[str], None]
) -> Session:
    """Everything up to training; builds the corpus where it is not built yet.

    Raises:
        SpecError, CorpusError, LedgerError: one line for each thing that is wrong.
    """
    sweep = load_sweep(spec, overrides)
    folder, root = out or Path("sweeps-out") / sweep.name, corpora_root(corpora)
    corpus = build_corpus(sweep.corpus, root, say)
    plan = make_plan(sweep, corpus)
    finished: frozenset[str] = frozenset()
    if (folder / FILE).is_file():
        ledger = open_ledger(folder)
        finished = ledger.finished_keys()
        ledger.close()
    unfinished = {run.model for run in plan.runs if run.key not in finished}
    seconds = plan.seconds(probe_tokens_per_s(unfinished, sweep.train.batch_tokens), finished)
    return Session(sweep, corpus, plan, folder, root, sweep.workers or usual_slots(), finished, seconds)


def train_and_report(session: Session, bootstrap: int, console: Console) -> None:
    """Trains what is missing, then fits and reports.

    Raises:
        Interrupted: Ctrl-C.
        SpecError: the folder belongs to another sweep or another driver.
    """
    start = time.perf_counter()
    if (session.out / FILE).is_file():
        ledger = open_ledger(session.out)
        refuse_other_settings(ledger, session.sweep, session.out)
        ledger.close()
    if session.seconds:
        console.print(session.table())
        if not has_compiler():
            console.print("no C++ compiler found (g++ or clang++): training runs eagerly, at about half the speed")
    console.print(
        session.forecast()
        if session.seconds
        else f"all {len(session.plan.runs)} runs are in {where_is(session.out / FILE)}: nothing to train"
    )
    if others := len(session.finished - {run.key for run in session.plan.runs}):
        console.print(
            f"{others} finished runs of this ledger are not in the plan; they stay, and the law is fitted to them too"
        )
    open_executor = partial(LocalExecutor, session.n_slots)
    run_sweep(session.sweep, session.plan, session.out, session.corpora, open_executor, session.seconds)
    if session.seconds:
        console.print(f"trained in {elapsed(start)}")
    conclude(session.out, analyse(session.out, session.corpora, bootstrap), console)


def conclude(out: Path, results: Results, console: Console) -> None:
    """The last lines of a run: losses, law, and where everything is."""
    ledger = open_ledger(out)
    rows = ledger.rows()
    ledger.close()
    grid, falls = loss_grid(rows)
    console.print("\ntest loss, nats per token")
    console.print(grid)
    console.print(f"losses fall along every row and column: {'yes' if falls else 'NO'}")
    if contaminated := [row for row in rows if row["test_loss_dirty"] is not None]:
        best = min(contaminated, key=lambda row: row["test_loss"])
        console.print(
            f"held-out text that shares {CLEAN_BELOW:.0%} or more of its words with the training text, in n-grams:"
            f" {best['test_loss_dirty']:.3f}; the rest: {best['test_loss_clean']:.3f} (N {short(best['N_total'])}, D {short(best['D'])})"
        )
    console.print()
    if results.fit is not None:
        print_fit(console, results.fit)
        rms = float((results.fit.residuals**2).mean() ** 0.5)
        p = results.fit.params
        console.print(
            f"\nL(N, D) = {p['A']:.3g}/N^{p['alpha']:.3f} + {p['B']:.3g}/D^{p['beta']:.3f} + {p['E']:.3f}   ({results.fit.n_runs} runs, residual RMS {rms:.2%} in log loss)"
        )
    else:
        console.print(f"no law: {results.why_no_fit}", markup=False)
    bad = [row for row in rows if row["state"] in ("failed", "diverged")]
    for row in bad:
        console.print(f"{row['state']}: N {row['N_total']:,} D {row['D']:,}: {row['error']}", markup=False)
    if results.report is not None:
        console.print(f"report: {where_is(results.report)}")
    if failed := sum(row["state"] == "failed" for row in rows):
        raise Failed(
            f"{failed} of {len(rows)} runs failed; the others are safe in {where_is(out / FILE)}, and the same command tries again"
        )
