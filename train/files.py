"""Files that are whole or not there. Imports no torch: ledgers and caches are written so too."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def cache_folder() -> Path:
    """What sixnd keeps of this machine between commands: $XDG_CACHE_HOME/sixnd, ~/.cache/sixnd by default."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sixnd"


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` at once when the block ends well, even if power fails then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(path.parent, f"{path.name}.*.tmp")
    temporary = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)  # the new name itself must reach the disk
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_stale(folder: Path, pattern: str) -> None:
    """Removes temporary files of processes of this host that are gone."""
    for path in folder.glob(pattern):
        host, _, pid = path.name.removesuffix(".tmp").rpartition(".")
        if host.endswith(f".{socket.gethostname()}") and pid.isdigit() and not _alive(int(pid)):
            path.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    """Whether another process of this number is at work; a file under our own number is one of a predecessor's."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
