"""Drives a sweep: hands runs to an executor, retries, and commits what comes back. Restarting it goes on."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from ..train.spec import RunSpec
from .executors.interface import Executor, Job, Outcome, Places
from .ledger.store import FILE, Ledger
from .live import read_live
from .planning.plan import Plan, Trunk, planned_row
from .show import seconds_in_words
from .spec import SpecError, SweepSpec

MAX_ATTEMPTS = 3  # of a run whose worker dies
REFRESH_S = 0.5


class Interrupted(Exception):
    """Ctrl-C: the sweep was stopped between two commits; the message says how to go on."""

    exit_code = 1


def run_sweep(
    sweep: SweepSpec,
    plan: Plan,
    out: Path,
    corpora: Path,
    open_executor: Callable[[Places], Executor],
    costs: Mapping[str, float],
) -> None:
    """Trains every run of the plan that the ledger in `out` does not hold yet.

    Args:
        sweep: what was asked for; its settings must be those that the ledger was started with.
        plan: its runs.
        out: folder of the sweep.
        corpora: folder of built corpora.
        open_executor: starts whatever trains the runs, such as partial(LocalExecutor, 2).
        costs: expected seconds by key, to start the longest trunk first.

    Raises:
        SpecError: another driver is at work in `out`, or its ledger holds a sweep of other settings.
        Interrupted: stopped by Ctrl-C.
    """
    out.mkdir(parents=True, exist_ok=True)
    with _only_driver(out):
        ledger = Ledger(out / FILE)
        try:
            refuse_other_settings(ledger, sweep, out)
            ledger.set_meta("settings", json.dumps(_flat(sweep.settings()), sort_keys=True))
            ledger.plan(planned_row(run) for run in plan.runs)
            if ledger.finished_keys().issuperset(run.key for run in plan.runs):
                return
            _Sweep(plan, ledger, out, corpora, open_executor, costs).drive()
        finally:
            ledger.close()


@contextmanager
def _only_driver(out: Path) -> Iterator[None]:
    lock = FileLock(out / ".driver.lock", timeout=0)
    try:
        with lock:
            yield
    except Timeout:
        raise SpecError(f"{out}: another sixnd is running this sweep; wait for it, or give another --out") from None


def refuse_other_settings(ledger: Ledger, sweep: SweepSpec, out: Path) -> None:
    """A grid may grow; what all its runs share may not change, or the law would be fitted across two recipes.

    Raises:
        SpecError: the ledger was started with other settings; the line names the first that differs.
    """
    settings = _flat(sweep.settings())
    before = json.loads(ledger.meta("settings") or "{}") or settings
    for key in sorted(before.keys() | settings.keys()):
        if before.get(key) != settings.get(key):
            raise SpecError(
                f"{out}: its runs were trained with {key} = {before.get(key)!r}, not {settings.get(key)!r}:"
                " give another --out, or the same settings"
            )


def _flat(tables: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tables.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    flat.pop("corpus.name", None)
    return flat


class _Sweep:
    """One sitting of a sweep. A trunk is never on two slots: each run starts from the checkpoint the last one left."""

    def __init__(
        self,
        plan: Plan,
        ledger: Ledger,
        out: Path,
        corpora: Path,
        open_executor: Callable[[Places], Executor],
        costs: Mapping[str, float],
    ) -> None:
        self.ledger, self.out, self.costs = ledger, out, costs
        self.places = Places(corpora, out / "checkpoints", out / "live", out / "documents")
        shutil.rmtree(self.places.live, ignore_errors=True)
        self.places.live.mkdir()
        done = ledger.finished_keys()
        self.work = {key: tokens for trunk in plan.trunks for key, tokens in trunk.trained_tokens(done).items()}
        self.trunks = {trunk.key: trunk for trunk in plan.trunks}
        self.queues = {trunk.key: [run for run in trunk.runs if run.key not in done] for trunk in plan.trunks}
        self.on_slot: dict[int, RunSpec] = {}
        self.last_trunk: dict[int, str] = {}
        self.attempts: dict[str, int] = {}
        self.ended: set[str] = set()
        self.compiled_widths: set[int] = set()
        self.executor = open_executor(self.places)
        self.bar = tqdm(total=sum(self.work.values()), unit="tok", unit_scale=True, desc=f"{len(self.work)} runs")

    def drive(self) -> None:
        try:
            while True:
                for slot in self.executor.idle_slots():
                    self._start_next(slot)
                if not self.on_slot:
                    break
                for slot, outcome in self.executor.completed(REFRESH_S):
                    self._end(slot, outcome)
                self._show()
        except KeyboardInterrupt:
            done = len(self.ended)
            raise Interrupted(
                f"stopped: {done} of {len(self.work)} runs finished in this sitting, all of them safe in"
                f" {self.out / FILE}; the same command goes on from there"
            ) from None
        finally:
            self.executor.cancel()
            for run in self.on_slot.values():
                self.ledger.back_to("planned", run.key)
            self.bar.close()
            shutil.rmtree(self.places.live, ignore_errors=True)

    def _start_next(self, slot: int) -> None:
        """The slot's own trunk while it has runs left, else the longest one that no slot is on."""
        taken = {run.trunk_key for run in self.on_slot.values()}
        free = [key for key, queue in self.queues.items() if queue and key not in taken]
        if not free:
            return
        own = self.last_trunk.get(slot)
        trunk = own if own in free else max(free, key=self._preference)
        run = self.queues[trunk].pop(0)
        self.attempts[run.key] = self.attempts.get(run.key, 0) + 1
        self.ledger.start(run.key)
        self.executor.submit(slot, Job(specs=(run,)))
        self.on_slot[slot], self.last_trunk[slot] = run, trunk

    def _preference(self, trunk: str) -> tuple[bool, float]:
        """Longest first, but not of a width that another slot is compiling now: it would be compiled twice."""
        compiling = {run.model.d_model for run in self.on_slot.values()} - self.compiled_widths
        return self.trunks[trunk].runs[0].model.d_model not in compiling, self._remaining(trunk)

    def _remaining(self, trunk: str) -> float:
        return sum(self.costs.get(run.key, 0.0) for run in self.queues[trunk])

    def _end(self, slot: int, outcome: Outcome) -> None:
        run = self.on_slot.pop(slot)
        name = f"{run.model.n_layers}x{run.model.d_model} N {run.model.n_total:,} D {run.tokens:,} seed {run.seed}"
        if not outcome.records and outcome.try_again and self.attempts[run.key] < MAX_ATTEMPTS:
            self.bar.write(f"{name}: {outcome.error}; trying again")
            self.ledger.back_to("planned", run.key, outcome.error)
            self.queues[run.trunk_key].insert(0, run)
            return
        self.ended.add(run.key)
        (self.places.live / f"{run.key}.json").unlink(missing_ok=True)
        if not outcome.records:
            self.bar.write(f"{name}: failed: {outcome.error}")
            self.ledger.back_to("failed", run.key, outcome.error)
        else:
            record = outcome.records[0]
            self.ledger.finish(record)
            self.compiled_widths.add(run.model.d_model)
            result = record.error or f"test loss {record.test_loss:.4f} ± {record.test_loss_se:.4f} nats/token"
            self.bar.write(f"[{len(self.ended)}/{len(self.work)}] {name}: {result} ({record.wall_s:.0f} s)")
            self._drop_checkpoints(self.trunks[run.trunk_key])

    def _drop_checkpoints(self, trunk: Trunk) -> None:
        """Branch points are of use until every run of their trunk is in the ledger."""
        if self.ledger.finished_keys().issuperset(run.key for run in trunk.runs):
            shutil.rmtree(self.places.checkpoints / trunk.key, ignore_errors=True)

    def _show(self) -> None:
        live = read_live(self.places.live)
        tokens = sum(self.work[key] for key in self.ended)
        losses, speed = [], 0.0
        for run in self.on_slot.values():
            if progress := live.get(run.key):
                tokens += max(0, self.work[run.key] - (progress.total - progress.tokens))
                losses.append(f"{progress.loss:.2f}")
                speed += progress.tokens_per_s
        self.bar.set_postfix_str(f"loss {', '.join(losses) or '-'}; {speed / 1e3:.0f}k tok/s", refresh=False)
        self.bar.update(tokens - self.bar.n)


def elapsed(start: float) -> str:
    """Time since a `time.perf_counter()`."""
    return seconds_in_words(time.perf_counter() - start)
