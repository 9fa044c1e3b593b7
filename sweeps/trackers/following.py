"""The driver's side of the trackers: starts their process beside a sweep, and says at the end what went wrong there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ..spec import SpecError
from .hook import CLASSES, check_trackers

FOLDER, STATE, LOG = "trackers", "state.json", "trackers.log"
FLUSH_S = 30.0  # what a tracker may take at the end: an upload that hangs must not hold the terminal


@contextmanager
def following(out: Path, trackers: Sequence[str], say: Callable[[str], None]) -> Iterator[None]:
    """While the block runs, a process of its own tells the trackers what happens in `out`.

    The process sees the end of the block, or of this process however it ends, as the end of its standard input.

    Raises:
        SpecError: a tracker is unknown, not installed, or not one.
    """
    check_trackers(trackers)
    if not trackers:
        yield
        return
    (out / FOLDER).mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "sixnd.sweeps.trackers.follow", str(out)]
    command += [part for name in trackers for part in ("--tracker", name)]
    if any(name not in CLASSES for name in trackers):
        _try_to_import(command)
    with (out / LOG).open("ab") as log:
        # A session of its own: Ctrl-C is for the driver, whose last rows the trackers shall still see.
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)
    try:
        yield
    finally:
        _end(process, out, say)


def _try_to_import(command: list[str]) -> None:
    """A class of one's own is imported once before anything is trained, in another process: it may be of any size."""
    tried = subprocess.run([*command, "--check"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if tried.returncode:
        raise SpecError(tried.stderr.strip() or f"trackers: their process ended with exit code {tried.returncode}")


def _end(process: subprocess.Popen[bytes], out: Path, say: Callable[[str], None]) -> None:
    if process.stdin:
        with suppress(BrokenPipeError):
            process.stdin.close()
    try:
        process.wait(FLUSH_S + 10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.returncode:
        say(f"trackers: their process ended with exit code {process.returncode}; {out / LOG} says why")
    for line in dropped(out):
        say(line)


def dropped(out: Path) -> list[str]:
    """One line for each tracker that failed in the latest sitting."""
    try:
        lines: dict[str, str] = json.loads((out / FOLDER / STATE).read_text())["dropped"]
    except (OSError, ValueError):
        return []
    return [f"tracker {name} was dropped: {why}; {out / LOG} has the rest" for name, why in lines.items()]
