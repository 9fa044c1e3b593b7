"""The HTML report while runs land: rewritten by a process of its own, so that a browser left open follows the sweep."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

FIRST_S = 30.0  # after the start of the sweep, and at least between two reports
REST = 25  # times its own duration, between two reports: at most 4 % of one core
LOG = "report.log"


class LiveReport:
    """Starts `python -m sixnd.sweeps.results` whenever runs have landed and the last report is old enough."""

    def __init__(self, out: Path, corpora: Path, n_runs: int) -> None:
        self.out, self.corpora, self.n_runs = out, corpora, n_runs
        self.process: subprocess.Popen[bytes] | None = None
        self.reported = 0
        self._started, self._next = 0.0, time.monotonic() + FIRST_S

    def poll(self, n_ended: int) -> None:
        """Starts a report if one is due; never waits."""
        now = time.monotonic()
        if self.process is not None:
            if self.process.poll() is None:
                return
            self.process = None
            self._next = now + max(FIRST_S, REST * (now - self._started))
        if now < self._next or n_ended == self.reported:
            return
        self.reported, self._started = n_ended, now
        command = [sys.executable, "-m", "sixnd.sweeps.results", str(self.out), str(self.corpora), str(self.n_runs)]
        with (self.out / LOG).open("wb") as log:
            # What goes wrong with a report on the way is in the log; the one at the end says it aloud.
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def close(self) -> None:
        """Ends a report that is still being written: the last one is written after the sweep."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if (self.out / LOG).exists() and not (self.out / LOG).stat().st_size:
            (self.out / LOG).unlink()
