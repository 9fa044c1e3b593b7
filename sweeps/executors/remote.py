"""What runs on a cluster's nodes: a worker that trains one job at a time, and the desk that hears of all of them.

Plain classes: executors/ray.py makes Ray actors of them.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from ...train.progress import Progress
from .interface import Job, Outcome, Places
from .mirror import Store, TrunkMirror, pull_corpus
from .worker import StopFile, start_worker, train_specs

REPORT_EVERY_S = 1.0
LOCK = ".lock"


class Desk:
    """On the driver's node: the latest progress of every job, and whether they are asked to stop."""

    def __init__(self) -> None:
        self.progress: dict[str, dict[str, Any]] = {}
        self.stopping = False

    def report(self, key: str, progress: dict[str, Any] | None) -> bool:
        """Notes a job's progress and answers whether it should stop."""
        if progress is not None:
            self.progress[key] = progress
        return self.stopping

    def heard(self) -> dict[str, dict[str, Any]]:
        """Progress by key that came in since the last time."""
        heard, self.progress = self.progress, {}
        return heard

    def stop(self) -> None:
        self.stopping = True


class Line:
    """A job's line to the desk: it takes progress there and brings back the request to stop, once a second.

    A call is not waited for: training goes on while it is under way, or while the desk is out of reach.
    """

    def __init__(self, desk: Any, key: str) -> None:
        self.desk, self.key = desk, key
        self._progress: Progress | None = None
        self._answer: Any = None
        self._next, self._asked = 0.0, False

    def listen(self, progress: Progress) -> None:
        self._progress = progress

    def stopped(self) -> bool:
        """Whether the job is asked to stop; looked at after every step."""
        import ray

        now = time.monotonic()
        if now < self._next or self._asked:
            return self._asked
        self._next = now + REPORT_EVERY_S
        if self._answer is not None:
            if not ray.wait([self._answer], timeout=0)[0]:
                return False
            try:
                self._asked = ray.get(self._answer)
            except ray.exceptions.RayError:  # the desk is gone, and the driver with it: Ray ends us
                return False
        progress = asdict(self._progress) if self._progress else None
        self._answer = self.desk.report.remote(self.key, progress)
        return self._asked


class RemoteWorker:
    """One slot: a process of one thread that is kept from job to job."""

    def __init__(self, desk: Any, places: Places, store: str | None) -> None:
        start_worker(0, os.getppid())  # the parent is the node's daemon: with it dead, nobody hears of what we train
        self.desk, self.places = desk, places
        self.store = Store(store) if store else None
        if store:
            cache = node_cache(store)
            own, self.lock = worker_folder(cache)
            self.places = Places(cache / "corpora", own / "checkpoints", own / "live", own / "documents")
            self.places.live.mkdir()

    def refuses(self, sixnd: str, marker: Path) -> str | None:
        """Why this node cannot serve the driver, which runs that version of sixnd and left `marker`."""
        if (here := version("sixnd")) != sixnd:
            return f"has sixnd {here}, the driver {sixnd}"
        if self.store is None and not marker.exists():
            return (
                f"does not see {marker.parent}: put sweep and corpora on a disk that all nodes share, or give ray.store"
            )
        return None

    def train(self, job_json: str) -> tuple[str, dict[str, bytes]]:
        """The outcome as JSON, and the files with the losses of the held-out documents, by name."""
        job = Job.model_validate_json(job_json)
        line, stop_file = Line(self.desk, job.keys[0]), StopFile(self.places.live)

        def stop() -> bool:
            return line.stopped() or stop_file()

        with tempfile.TemporaryDirectory(prefix="sixnd-") as scratch:
            places = replace(self.places, documents=Path(scratch))
            try:
                outcome = self._train(job, places, line.listen, stop)
            except OSError as error:  # the disk or the store, not the run
                return Outcome(error=_first_line(error), try_again=True).model_dump_json(), {}
            except Exception as error:
                return Outcome(error=_first_line(error)).model_dump_json(), {}
            documents = {path.name: path.read_bytes() for path in Path(scratch).glob("*.npz")}
        return outcome.model_dump_json(), documents

    def _train(
        self, job: Job, places: Places, listener: Callable[[Progress], None], stop: Callable[[], bool]
    ) -> Outcome:
        if self.store is None:
            return train_specs(job, places, listener, stop)
        pull_corpus(self.store, places.corpora, job.specs[0].corpus)
        mirror = TrunkMirror(self.store, places.checkpoints, job.named)
        for trunk in places.checkpoints.glob("*"):
            if trunk.name != job.named.trunk_key:  # the store has it; here it would only fill the disk
                shutil.rmtree(trunk, ignore_errors=True)
        mirror.pull()
        with mirror.following():
            return train_specs(job, places, listener, stop)


def node_cache(store: str) -> Path:
    """This node's folder for what it pulls: under TMPDIR, which batch systems point at the node's own disk."""
    folder = Path(tempfile.gettempdir()) / f"sixnd-{getpass.getuser()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(13, "belongs to another user", str(folder))
    return folder / hashlib.sha256(store.encode()).hexdigest()[:12]


def worker_folder(cache: Path) -> tuple[Path, BaseFileLock]:
    """A folder for this process alone, for two may have a trunk at a time; it is ours while we hold the lock.

    Folders of workers that are gone are removed.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / ".lock"):
        for left in cache.glob("worker-*"):
            with suppress(Timeout), FileLock(left / LOCK, timeout=0):
                shutil.rmtree(left)
        own = Path(tempfile.mkdtemp(prefix="worker-", dir=cache))
        lock = FileLock(own / LOCK)
        lock.acquire()
    return own, lock


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
