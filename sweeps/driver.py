"""Drives a sweep: hands jobs to an executor, retries, and commits what comes back. Restarting it goes on."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..train.record import CurvePoint, RunRecord
from ..train.spec import RunSpec
from .executors.interface import Executor, Job, Outcome, Places
from .lanes import Lanes
from .ledger.settings import first_difference, flat
from .ledger.store import FILE, Ledger
from .live import read_live
from .live_report import LiveReport
from .lock import only_driver
from .planning.plan import Plan, planned_row
from .show import seconds_in_words
from .spec import SpecError, SweepSpec
from .stopping import Interrupted, StopRequest, stop_requests

MAX_ATTEMPTS = 3  # of a run whose worker dies
REFRESH_S = 0.5
NO_SLOT_S = 30.0  # without a slot before the driver says that it waits for one
SPENT = "seconds_spent"  # of all sittings, in the ledger's meta


class SweepFailed(Exception):
    """The sweep cannot go on, and no run of it is to blame; the message says why and what is safe."""

    exit_code = 1


def run_sweep(
    sweep: SweepSpec,
    plan: Plan,
    out: Path,
    corpora: Path,
    open_executor: Callable[[Places], Executor],
    costs: Mapping[str, float],
    hours: float | None = None,
) -> None:
    """Trains every run of the plan that the ledger in `out` does not hold yet.

    Args:
        sweep: what was asked for; its settings must be those that the ledger was started with.
        plan: its runs.
        out: folder of the sweep.
        corpora: folder of built corpora.
        open_executor: starts whatever trains the runs, such as partial(LocalExecutor, 2).
        costs: expected seconds by key, to start the longest trunk first.
        hours: wall-clock cap over all sittings; what it cuts off is left as `censored`.

    Raises:
        SpecError: another driver is at work in `out`, or its ledger holds a sweep of other settings.
        Interrupted: stopped by Ctrl-C or SIGTERM.
        SweepFailed: the disk of a worker is full.
        LedgerError, LedgerFull: the ledger cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    with only_driver(out):
        ledger = Ledger(out / FILE)
        try:
            refuse_other_settings(ledger, sweep, out, plan.rule)
            ledger.set_meta("settings", json.dumps(_shared(sweep, plan.rule), sort_keys=True))
            ledger.plan(planned_row(run, tuned=plan.rule is not None) for run in plan.runs)
            if not ledger.finished_keys().issuperset(run.key for run in plan.runs):
                with stop_requests() as request:
                    _Sweep(plan, ledger, out, corpora, open_executor, costs, hours).drive(request)
        finally:
            ledger.close()


def refuse_other_settings(ledger: Ledger, sweep: SweepSpec, out: Path, rule: str | None) -> None:
    """A grid may grow; what all its runs share may not change, or the law would be fitted across two recipes.

    Raises:
        SpecError: the ledger was started with other settings; the line names the first that differs.
    """
    settings = _shared(sweep, rule)
    before = json.loads(ledger.meta("settings") or "{}") or settings
    if difference := first_difference(before, settings):
        key, trained, asked = difference
        raise SpecError(
            f"{out}: its runs were trained with {key} = {trained!r}, not {asked!r}: give another --out, or the same settings"
        )


def _shared(sweep: SweepSpec, rule: str | None) -> dict[str, Any]:
    """Settings that all runs share; of a tuned sweep, the rule is one of them."""
    return flat(sweep.settings()) | ({"tuning.rule": rule} if rule else {})


class _Sweep:
    """One sitting of a sweep. No stretch of a trunk is trained twice: each run starts where the one before it left it."""

    def __init__(
        self,
        plan: Plan,
        ledger: Ledger,
        out: Path,
        corpora: Path,
        open_executor: Callable[[Places], Executor],
        costs: Mapping[str, float],
        hours: float | None,
    ) -> None:
        self.ledger, self.out, self.hours = ledger, out, hours
        self.places = Places(corpora, out / "checkpoints", out / "live", out / "documents")
        shutil.rmtree(self.places.live, ignore_errors=True)
        self.places.live.mkdir()
        done = ledger.finished_keys()
        self.work = {key: tokens for trunk in plan.trunks for key, tokens in trunk.trained_tokens(done).items()}
        self.trunks = {trunk.key: trunk for trunk in plan.trunks}
        self.attempts: dict[str, int] = {}
        self.ended: set[str] = set()
        self.curves: dict[str, tuple[CurvePoint, ...]] = {}  # of runs that were stopped
        self.started, self.spent_before = time.monotonic(), float(ledger.meta(SPENT) or 0.0)
        self.disk_full: str | None = None
        self.executor = open_executor(self.places)
        self.lanes = Lanes.of(plan.trunks, done, self.executor.most_stacked, costs, self.executor.has_branched)
        self.report = LiveReport(out, corpora, len(plan.runs))
        self.bar = tqdm(total=sum(self.work.values()), unit="tok", unit_scale=True, desc=f"{len(self.work)} runs")
        if ledger.network:
            self.bar.write(
                f"{ledger.path}: on a network filesystem ({ledger.network}); SQLite's locks may not hold there"
            )

    def drive(self, request: StopRequest) -> None:
        try:
            self._until_stopped(request)
            if self.disk_full:
                raise SweepFailed(f"{self.disk_full}; {self._what_is_safe()}")
            if request():
                raise Interrupted(f"stopped: {self._what_is_safe()}")
            self._censor_rest()
        except KeyboardInterrupt:
            raise Interrupted(f"stopped at once: {self._what_is_safe()}") from None
        finally:
            self.executor.cancel()
            self.report.close()
            self.bar.close()
            for _, job in self.lanes.on_slot.values():
                self.ledger.back_to("planned", job.keys, "stopped")
            self.ledger.set_meta(SPENT, f"{self._spent():.1f}")
            shutil.rmtree(self.places.live, ignore_errors=True)

    def _until_stopped(self, request: StopRequest) -> None:
        """Starts and ends jobs until none is left, or, once asked to stop, until the running ones have stopped."""
        stopping, waited_since = False, time.monotonic()
        while True:
            if not stopping and (request() or self.disk_full or self._cap_reached()):
                stopping = True
                self.executor.ask_to_stop()
                if request():
                    self.bar.write(
                        "stopping: each run finishes its step and writes a checkpoint; Ctrl-C again ends at once"
                    )
            if not stopping:
                for slot in self.executor.idle_slots():
                    self._start_next(slot)
            if not self.lanes.on_slot and (stopping or not self.lanes.waiting):
                return
            for slot, outcome in self.executor.completed(REFRESH_S):
                self._end(slot, outcome)
            if self.lanes.on_slot:
                waited_since = time.monotonic()
            elif time.monotonic() - waited_since > NO_SLOT_S:
                self.bar.write("no worker is free: waiting for one")
                waited_since = float("inf")
            self.report.poll(len(self.ended))
            self._show()

    def _start_next(self, slot: int) -> None:
        if (job := self.lanes.take(slot)) is None:
            return
        for key in job.keys:
            self.attempts[key] = self.attempts.get(key, 0) + 1
        self.ledger.start(job.keys, f"slot {slot}")
        self.executor.submit(slot, job)

    def _end(self, slot: int, outcome: Outcome) -> None:
        if outcome.records:
            job = self.lanes.ended(slot)
            self._commit(job, outcome.records)
        elif outcome.stopped or outcome.disk_full:
            job = self.lanes.again(slot)
            self.curves |= outcome.curves
            self.disk_full = self.disk_full or outcome.disk_full
            self.ledger.back_to("planned", job.keys, "stopped", outcome.disk_full)
        elif outcome.try_again and self.attempts[self.lanes.on_slot[slot][1].keys[0]] < MAX_ATTEMPTS:
            job = self.lanes.again(slot)
            self.bar.write(f"{_name(job)}: {outcome.error}; trying again")
            self.ledger.back_to("planned", job.keys, "lost", outcome.error)
        elif len(self.lanes.on_slot[slot][1].specs) > 1:
            job = self.lanes.apart(slot)
            shutil.rmtree(self.places.checkpoints / job.named.trunk_key, ignore_errors=True)  # of no use to single runs
            self.bar.write(f"{_name(job)}: {outcome.error}; trying one by one")
            self.ledger.back_to("planned", job.keys, "lost", outcome.error)
            self.attempts |= dict.fromkeys(job.keys, 0)
        else:
            job = self.lanes.ended(slot)
            self.ended.update(job.keys)
            self.bar.write(f"{_name(job)}: failed: {outcome.error}")
            self.ledger.back_to("failed", job.keys, "failed", outcome.error)
        for key in job.keys:
            (self.places.live / f"{key}.json").unlink(missing_ok=True)

    def _commit(self, job: Job, records: Sequence[RunRecord]) -> None:
        self.ledger.finish(records)
        for run, record in zip(job.specs, records, strict=True):
            self.ended.add(run.key)
            result = (
                record.error or f"{run.held_out} loss {record.test_loss:.4f} ± {record.test_loss_se:.4f} nats/token"
            )
            self.bar.write(f"[{len(self.ended)}/{len(self.work)}] {_name_of(run)}: {result} ({record.wall_s:.0f} s)")
        # Branch points are of use until every run of their trunks is in the ledger.
        keys = [run.trunk_key for run in job.specs]
        if self.ledger.finished_keys().issuperset(run.key for key in keys for run in self.trunks[key].runs):
            for key in (*keys, job.named.trunk_key):
                shutil.rmtree(self.places.checkpoints / key, ignore_errors=True)

    def _censor_rest(self) -> None:
        if left := self.lanes.left():
            reason = f"the budget of {self.hours:g} hours was spent"
            self.ledger.censor(left, reason, self.curves)
            self.bar.write(f"{reason}: {len(left)} runs are censored; a larger budget goes on with them")

    def _cap_reached(self) -> bool:
        return self.hours is not None and self._spent() >= 3600 * self.hours

    def _spent(self) -> float:
        return self.spent_before + time.monotonic() - self.started

    def _what_is_safe(self) -> str:
        return (
            f"{len(self.ended)} of {len(self.work)} runs finished in this sitting, all of them safe in {self.out / FILE};"
            " the same command goes on from there"
        )

    def _show(self) -> None:
        live = read_live(self.places.live)
        tokens = sum(self.work[key] for key in self.ended)
        losses, speed = [], 0.0
        for _, job in self.lanes.on_slot.values():
            if progress := live.get(job.keys[0]):
                tokens += sum(max(0, self.work[key] - (progress.total - progress.tokens)) for key in job.keys)
                losses.append(f"{progress.loss:.2f}")
                speed += progress.tokens_per_s
        self.bar.set_postfix_str(f"loss {', '.join(losses) or '-'}; {speed / 1e3:.0f}k tok/s", refresh=False)
        self.bar.update(tokens - self.bar.n)


def _name(job: Job) -> str:
    return _name_of(job.specs[0]) if len(job.specs) == 1 else f"{len(job.specs)} runs stacked, {_name_of(job.specs[0])}"


def _name_of(run: RunSpec) -> str:
    return f"{run.model.n_layers}x{run.model.d_model} N {run.model.n_total:,} D {run.tokens:,} seed {run.seed}"


def elapsed(start: float) -> str:
    """Time since a `time.perf_counter()`."""
    return seconds_in_words(time.perf_counter() - start)
