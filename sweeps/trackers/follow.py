"""Follows a sweep from beside it: python -m sixnd.sweeps.trackers.follow OUT --tracker wandb --tracker tensorboard

Reads the ledger, the live files and fit.json about once a second, writes to none of them, and tells the trackers. What each
was told is kept in trackers/state.json, so that a follower started again goes on where the last one ended. Standard input
is the tie to the driver: its end is the end of the sweep.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from ..ledger.schema import FINAL
from ..ledger.store import FILE, open_read_only
from ..live import read_live
from ..show import write_json
from ..spec import SpecError
from .following import FLUSH_S, FOLDER, STATE
from .hook import Row, Tracker, load_tracker

LOOK_EVERY_S = 1.0
ENDED = frozenset({*FINAL, "failed", "censored"})


class Told:
    """One tracker, and what it was told: by run its tokens and its end, and of which law."""

    def __init__(self, tracker: Tracker, before: Mapping[str, Any]) -> None:
        self.tracker = tracker
        self.tokens: dict[str, int] = dict(before.get("tokens", {}))
        self.ends: dict[str, str] = dict(before.get("ends", {}))
        self.fitted_at: int | None = before.get("fitted_at")
        self.started: set[str] = set()  # by this process

    def state(self, row: Row) -> None:
        key, state = row["key"], row["state"]
        if state == "running":
            self.ends.pop(key, None)  # a failed run that is tried again
            self._start(row)
        elif state in ENDED and self.ends.get(key) != state:
            self._start(row)
            self.tracker.finished(row)
            self.ends[key] = state
            self.tokens.pop(key, None)
            self.started.discard(key)

    def progress(self, row: Row, tokens: int, loss: float, tokens_per_s: float) -> None:
        if tokens > self.tokens.get(row["key"], 0):  # what a killed run trains again was told before
            self.tracker.progress(row, tokens, loss, tokens_per_s)
            self.tokens[row["key"]] = tokens

    def law(self, fit: Mapping[str, Any], fitted_at: int) -> None:
        if fitted_at != self.fitted_at:
            self.tracker.law(fit)
            self.fitted_at = fitted_at

    def close(self) -> None:
        self.tracker.close()

    def _start(self, row: Row) -> None:
        if row["key"] not in self.started:
            self.tracker.started(row)
            self.started.add(row["key"])

    def memory(self) -> dict[str, Any]:
        return {"tokens": self.tokens, "ends": self.ends, "fitted_at": self.fitted_at}


class Follower:
    """Tells every tracker what it has not been told yet; one that fails is dropped, and the others go on."""

    def __init__(self, out: Path, classes: Mapping[str, Callable[[Path, str], Tracker]]) -> None:
        self.out, self.state_file = out, out / FOLDER / STATE
        self.memory: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            self.memory = json.loads(self.state_file.read_text())["told"]
        self.told: dict[str, Told] = {}
        self.dropped: dict[str, str] = {}
        self.states: dict[str, str] = {}
        self.running: dict[str, Row] = {}
        self._ledger_seen, self._written, self._complaint = (0, 0), "", ""
        for name, open_tracker in classes.items():
            folder = out.resolve() / FOLDER / name.replace(":", ".")
            folder.mkdir(parents=True, exist_ok=True)
            try:
                self.told[name] = Told(open_tracker(folder, out.resolve().name), self.memory.get(name, {}))
            except Exception as error:
                self._drop(name, error)
        self._remember()

    def look(self) -> None:
        """One look at the sweep."""
        for row in self._changed_rows():
            self._tell(Told.state, row)
        for key, at in read_live(self.out / "live").items():
            if key in self.running:
                self._tell(Told.progress, self.running[key], at.tokens, at.loss, at.tokens_per_s)
        with suppress(OSError, ValueError):  # none yet, or removed while we looked
            fitted_at = (self.out / "fit.json").stat().st_mtime_ns
            fit = json.loads((self.out / "fit.json").read_text())
            self._tell(Told.law, fit, fitted_at)
        self._remember()

    def close(self) -> None:
        """Lets every tracker write out what it holds."""
        self._tell(Told.close)
        self._remember()

    def _changed_rows(self) -> list[Row]:
        """Rows whose state is another than at the last look, those that ended first by the time they did."""
        path = self.out / FILE
        seen = _changed_at(path), _changed_at(path.with_name(f"{FILE}-wal"))
        if seen == self._ledger_seen or not path.is_file():
            return []
        try:
            # Opened anew each time: a connection kept open would keep the driver from folding its log in at the end.
            with closing(open_read_only(path)) as ledger:
                ledger.row_factory = sqlite3.Row
                found = ledger.execute("SELECT key, state FROM runs ORDER BY finished_at NULLS LAST, key").fetchall()
                states = dict(found)
                changed = [key for key, state in states.items() if self.states.get(key) != state]
                rows: list[Row] = [
                    dict(ledger.execute("SELECT * FROM runs WHERE key = ?", (key,)).fetchone()) for key in changed
                ]
        except sqlite3.OperationalError as error:
            if str(error) != self._complaint:  # once, and not at every look
                self._complaint = str(error)
                print(f"{path}: {error}; looked at again", file=sys.stderr, flush=True)
            return []
        self._ledger_seen, self.states = seen, states
        self.running = {key: row for key, row in self.running.items() if states.get(key) == "running"}
        self.running |= {row["key"]: row for row in rows if row["state"] == "running"}
        return rows

    def _tell(self, what: Callable[..., None], *about: object) -> None:
        for name, told in list(self.told.items()):
            try:
                what(told, *about)
            except Exception as error:
                self.memory[name] = told.memory()
                del self.told[name]
                self._drop(name, error)

    def _drop(self, name: str, error: Exception) -> None:
        first_line = (str(error).strip() or "no message").splitlines()[0]
        self.dropped[name] = f"{type(error).__name__}: {first_line}"
        traceback.print_exception(error)
        print(f"tracker {name} dropped: {self.dropped[name]}", file=sys.stderr, flush=True)

    def _remember(self) -> None:
        self.memory |= {name: told.memory() for name, told in self.told.items()}
        document = {"told": self.memory, "dropped": self.dropped}
        if (text := json.dumps(document)) != self._written:
            with suppress(OSError):  # a full disk: at worst something is told twice
                write_json(self.state_file, document)
                self._written = text


def _changed_at(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def follow(out: Path, names: list[str]) -> int:
    """Follows until standard input ends, then looks once more and closes the trackers."""
    ended = threading.Event()
    threading.Thread(target=_wait_for_driver, args=(ended,), daemon=True).start()
    # The follower of a driver that was killed may still be writing its last: it is waited for.
    with FileLock(out / FOLDER / ".lock"):
        follower = Follower(out, {name: load_tracker(name) for name in names})
        while follower.told and not ended.wait(LOOK_EVERY_S):
            follower.look()
        limit = threading.Timer(FLUSH_S, _give_up)
        limit.daemon = True
        limit.start()
        follower.look()
        follower.close()
    return 0


def _wait_for_driver(ended: threading.Event) -> None:
    os.read(0, 1)  # nothing is ever sent
    ended.set()


def _give_up() -> None:
    print(f"the trackers did not end within {FLUSH_S:.0f} s", file=sys.stderr, flush=True)
    os._exit(1)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m sixnd.sweeps.trackers.follow", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tracker", action="append", required=True)
    parser.add_argument("--check", action="store_true", help="only import the trackers")
    options = parser.parse_args()
    os.nice(10)  # the cores belong to the training
    try:
        if options.check:
            for name in options.tracker:
                load_tracker(name)
            return 0
        return follow(options.out, options.tracker)
    except SpecError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
