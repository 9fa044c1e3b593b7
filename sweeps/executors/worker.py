"""The inside of a worker process: it trains one job at a time, on one thread, and says how it ended."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...train.progress import Listener
from ..live import LiveFile
from .interface import Job, Outcome, Places

STOP = "stop"  # this file in Places.live asks every job to stop
ASK_EVERY_S = 0.2

_terminated = threading.Event()  # SIGTERM came: a preempted machine gives seconds, enough for a checkpoint


def start_worker(slot: int, driver: int) -> None:
    """Prepares a fresh worker: one thread, its own GPU where there are any, and no life beyond the driver's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver decides what Ctrl-C means
    signal.signal(signal.SIGTERM, lambda *_: _terminated.set())
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


class StopFile:
    """Whether the jobs are asked to stop: by SIGTERM, or by the file, which is looked for a few times a second."""

    def __init__(self, live: Path) -> None:
        self.path, self._next, self._asked = live / STOP, 0.0, False

    def __call__(self) -> bool:
        now = time.monotonic()
        if now >= self._next:
            self._next, self._asked = now + ASK_EVERY_S, self.path.exists()
        return self._asked or _terminated.is_set()


def train_job(job_json: str, places: Places) -> str:
    """Trains a job on this machine; jobs and outcomes cross the process boundary as JSON."""
    if _terminated.is_set():  # this machine is to be left: the driver tries the job on a fresh worker
        os._exit(1)
    job = Job.model_validate_json(job_json)
    return train_specs(job, places, LiveFile(places.live, job.keys[0]), StopFile(places.live)).model_dump_json()


def train_specs(job: Job, places: Places, listener: Listener, stop: Callable[[], bool]) -> Outcome:
    """Trains a job and tells `listener` of its progress; asked by `stop`, it ends after the step at hand."""
    from ...train.device import release_memory
    from ...train.loop import Stopped, train
    from ...train.stacked import train_stacked

    if stop():  # asked while this process was still importing
        return Outcome(stopped=True)
    shared: dict[str, Any] = {
        "corpora": places.corpora,
        "checkpoints": places.checkpoints,
        "documents": places.documents,
        "listener": listener,
        "say": lambda _: None,  # the driver says once what every worker would
        "stop": stop,
    }
    try:
        if len(job.specs) == 1:
            return Outcome(records=(train(job.specs[0], **shared),))
        return Outcome(records=tuple(train_stacked(job.specs, **shared)))
    except Stopped as end:
        return Outcome(stopped=True, curves=end.curves)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return Outcome(disk_full=f"{error.filename or places.checkpoints}: no space left on the disk")
        raise
    finally:
        release_memory()
