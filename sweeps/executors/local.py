"""Runs on this machine: one process of one thread for every slot, kept from run to run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from pebble import ProcessExpired, ProcessFuture, ProcessPool

from ...train.device import worker_environment
from ...train.record import RunRecord
from ...train.spec import RunSpec
from ..live import LiveFile


@dataclass(frozen=True)
class Places:
    """Folders that a worker reads and writes."""

    corpora: Path
    checkpoints: Path
    live: Path
    documents: Path  # losses of the held-out documents


@dataclass(frozen=True)
class Outcome:
    """How a submitted run ended: with a record, or with an error that may be worth another try."""

    key: str
    record: RunRecord | None
    error: str | None = None
    try_again: bool = False


class LocalExecutor:
    """One pool of one process a slot, so that a worker killed costs its own run and no other."""

    def __init__(self, n_slots: int, places: Places) -> None:
        os.environ.update(worker_environment())  # spawned workers inherit it before they start
        self.places = places
        context = multiprocessing.get_context("spawn")
        self.pools = [
            ProcessPool(max_workers=1, context=context, initializer=start_worker, initargs=(slot, os.getpid()))
            for slot in range(n_slots)
        ]
        self.running: dict[int, tuple[RunSpec, ProcessFuture[str]]] = {}

    def idle_slots(self) -> list[int]:
        return [slot for slot in range(len(self.pools)) if slot not in self.running]

    def submit(self, slot: int, spec: RunSpec) -> None:
        """Hands a run to an idle slot."""
        future = self.pools[slot].schedule(run_in_worker, args=(spec.model_dump_json(), self.places))
        self.running[slot] = (spec, future)

    def completed(self, timeout: float) -> list[tuple[int, Outcome]]:
        """(slot, outcome) of the runs that ended, after at most `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            ended = [slot for slot, (_, future) in self.running.items() if future.done()]
            if ended or time.monotonic() >= deadline:
                return [(slot, _outcome(*self.running.pop(slot))) for slot in ended]
            time.sleep(0.02)

    def cancel(self) -> None:
        """Ends every worker now; what they had not returned is not done."""
        for pool in self.pools:
            pool.stop()
        for pool in self.pools:
            pool.join(timeout=10)


def _outcome(spec: RunSpec, future: ProcessFuture[str]) -> Outcome:
    error = future.exception()
    if error is None:
        return Outcome(spec.key, RunRecord.model_validate_json(future.result()))
    if isinstance(error, ProcessExpired):
        return Outcome(spec.key, None, f"worker ended (exit code {error.exitcode})", try_again=True)
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else ""
    return Outcome(spec.key, None, f"{type(error).__name__}: {first_line}")


def start_worker(slot: int, driver: int) -> None:
    """Prepares a fresh worker: one thread, its own GPU where there are any, and no life beyond the driver's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver decides what Ctrl-C means
    threading.Thread(target=_exit_with, args=(driver,), daemon=True).start()
    import torch
    from tqdm import tqdm

    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which a worker that is stopped would leave behind
    torch.set_num_threads(1)
    if torch.cuda.is_available():
        torch.cuda.set_device(slot % torch.cuda.device_count())


def _exit_with(driver: int) -> None:
    """A worker whose driver was killed would train on unseen, beside the driver's successor."""
    while os.getppid() == driver:
        time.sleep(0.5)
    os._exit(1)


def run_in_worker(spec_json: str, places: Places) -> str:
    """Trains one run; specs and records cross the process boundary as JSON."""
    from ...train.loop import train

    spec = RunSpec.model_validate_json(spec_json)
    record = train(
        spec,
        corpora=places.corpora,
        checkpoints=places.checkpoints,
        documents=places.documents,
        listener=LiveFile(places.live, spec.key),
        say=lambda _: None,  # the driver says once what every worker would
    )
    return record.model_dump_json()
