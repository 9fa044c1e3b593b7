"""Jobs on this machine: one process of one thread for every slot, kept from job to job."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

from pebble import ProcessExpired, ProcessFuture, ProcessPool

from ...train.machine import worker_environment
from .interface import Job, Outcome, Places
from .worker import STOP, start_worker, train_job


class LocalExecutor:
    """One pool of one process a slot, so that a worker killed costs its own job and no other."""

    def __init__(self, n_slots: int, places: Places, most_stacked: int = 1) -> None:
        """Slots of one process each; on a machine with GPUs they are dealt out to them in turn."""
        os.environ.update(worker_environment())  # spawned workers inherit it before they start
        self.places, self.most_stacked = places, most_stacked
        context = multiprocessing.get_context("spawn")
        self.pools = [
            ProcessPool(max_workers=1, context=context, initializer=start_worker, initargs=(slot, os.getpid()))
            for slot in range(n_slots)
        ]
        self.running: dict[int, ProcessFuture[str]] = {}

    def idle_slots(self) -> list[int]:
        return [slot for slot in range(len(self.pools)) if slot not in self.running]

    def submit(self, slot: int, job: Job) -> None:
        """Hands a job to an idle slot."""
        self.running[slot] = self.pools[slot].schedule(train_job, args=(job.model_dump_json(), self.places))

    def has_branched(self, job: Job) -> bool:
        """Whether another slot can go on with a job's trunk."""
        return self.places.holds_branch(job)

    def completed(self, timeout: float) -> list[tuple[int, Outcome]]:
        """(slot, outcome) of the jobs that ended, after at most `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            ended = [slot for slot, future in self.running.items() if future.done()]
            if ended or time.monotonic() >= deadline:
                return [(slot, _outcome(self.running.pop(slot))) for slot in ended]
            time.sleep(0.02)

    def ask_to_stop(self) -> None:
        """Asks every running job to finish its step, save a checkpoint and end as stopped."""
        (self.places.live / STOP).touch()

    def cancel(self) -> None:
        """Ends every worker now; what they had not returned is not done."""
        for pool in self.pools:
            pool.stop()
        for pool in self.pools:
            pool.join(timeout=10)


def _outcome(future: ProcessFuture[str]) -> Outcome:
    error = future.exception()
    if error is None:
        return Outcome.model_validate_json(future.result())
    if isinstance(error, ProcessExpired):
        killed = " (killed: out of memory?)" if error.exitcode == -signal.SIGKILL else ""
        return Outcome(error=f"worker ended with exit code {error.exitcode}{killed}", try_again=True)
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else ""
    return Outcome(error=f"{type(error).__name__}: {first_line}")
