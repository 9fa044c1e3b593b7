"""Trackio: a SQLite file on this machine, or the Space that TRACKIO_SPACE_ID names."""

from __future__ import annotations

import contextvars
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .hook import Row, config_of, curve_of, finals_of, law_scalars, run_name


class TrackioTracker:
    """A Trackio run for each run, named after it and its key; the sweep is their project."""

    def __init__(self, folder: Path, sweep: str) -> None:
        os.environ.setdefault("TRACKIO_DIR", str(folder))  # read when the module is imported
        import trackio

        self.trackio, self.sweep = trackio, sweep
        self.runs: dict[str, Any] = {}

    def started(self, row: Row) -> None:
        self.runs[row["key"]] = self._open(f"{run_name(row)} {row['key']}", config_of(row))

    def progress(self, row: Row, tokens: int, loss: float, tokens_per_s: float) -> None:
        self.runs[row["key"]].log({"train/loss": loss, "train/tokens_per_s": tokens_per_s}, step=tokens)

    def finished(self, row: Row) -> None:
        run = self.runs.pop(row["key"])
        for tokens, loss in curve_of(row):
            run.log({"curve/loss": loss}, step=tokens)
        run.log({**{f"final/{name}": value for name, value in finals_of(row).items()}, "state": row["state"]}, row["D"])
        run.finish()

    def law(self, fit: Mapping[str, Any]) -> None:
        run = self._open("law", {"law": fit.get("law")})
        run.log(law_scalars(fit), step=fit["n_runs"])
        run.finish()

    def close(self) -> None:
        for run in self.runs.values():
            run.finish()

    def _open(self, name: str, config: dict[str, Any]) -> Any:
        # trackio.init ends the run of its context, and several runs are at work at once: each gets a context.
        return contextvars.copy_context().run(
            self.trackio.init,
            project=self.sweep,
            name=name,
            config=config,
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
