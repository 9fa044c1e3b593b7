"""One driver a sweep: a lock file that the system releases when its holder ends, however it ends."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from .toml import SpecError

LOCK = ".driver.lock"
HOLDER = ".driver"  # who holds it: host and process


@contextmanager
def only_driver(out: Path) -> Iterator[None]:
    """Holds the sweep folder for this process.

    Raises:
        SpecError: another process does; the line names it.
    """
    try:
        with FileLock(out / LOCK, timeout=0):
            (out / HOLDER).write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
            yield
    except Timeout:
        who = (out / HOLDER).read_text().strip() if (out / HOLDER).exists() else "another sixnd"
        raise SpecError(f"{out}: {who} is running this sweep; wait for it, or give another --out") from None


def driver_at_work(out: Path) -> bool:
    """Whether a driver holds the sweep now."""
    try:
        with FileLock(out / LOCK, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # a folder that is only read has no driver that writes
        return False
