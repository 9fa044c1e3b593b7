"""What a worker is doing right now, as one small file a run that anyone may read."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from pathlib import Path

from ..train.progress import Progress

WRITE_EVERY_S = 0.5
STALE_AFTER_S = 60.0


class LiveFile:
    """Writes a run's progress to FOLDER/KEY.json, at most twice a second, each time as a whole."""

    def __init__(self, folder: Path, key: str) -> None:
        self.path, self._next = folder / f"{key}.json", 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + WRITE_EVERY_S
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(progress)))
        temporary.replace(self.path)


def read_live(folder: Path) -> dict[str, Progress]:
    """Progress by key of the runs that wrote within the last minute.

    A file is judged against the time that the filesystem gives a file written now, so that neither this machine's
    clock nor one that was set back makes a running run look stopped, or a stopped one running for ever.
    """
    live: dict[str, Progress] = {}
    if not (paths := list(folder.glob("*.json"))):
        return live
    now = _filesystem_time(folder)
    for path in paths:
        try:
            if abs(now - path.stat().st_mtime) < STALE_AFTER_S:
                live[path.stem] = Progress(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            continue  # replaced or removed while we looked
    return live


def _filesystem_time(folder: Path) -> float:
    probe = folder / f".now.{os.getpid()}"
    try:
        probe.touch()
        written = probe.stat().st_mtime
        probe.unlink()
    except OSError:  # a folder that is only read
        return time.time()
    return written
