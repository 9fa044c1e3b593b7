"""Weights & Biases: offline unless WANDB_MODE says otherwise; `wandb sync` uploads what was kept."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import wandb

from .hook import Row, config_of, curve_of, finals_of, law_scalars, run_name


class WandbTracker:
    """A W&B run for each run, its id the run's key; the sweep is their group, and one more run, law-SWEEP, has the law."""

    def __init__(self, folder: Path, sweep: str) -> None:
        self.folder, self.sweep = folder, sweep
        self.runs: dict[str, wandb.Run] = {}

    def started(self, row: Row) -> None:
        run = self._open(row["key"], run_name(row), config_of(row), "run")
        run.define_metric("*", step_metric="tokens")
        self.runs[row["key"]] = run

    def progress(self, row: Row, tokens: int, loss: float, tokens_per_s: float) -> None:
        self.runs[row["key"]].log({"tokens": tokens, "train/loss": loss, "train/tokens_per_s": tokens_per_s})

    def finished(self, row: Row) -> None:
        run = self.runs.pop(row["key"])
        for tokens, loss in curve_of(row):
            run.log({"tokens": tokens, "curve/loss": loss})
        run.summary.update({**finals_of(row), "state": row["state"], "error": row["error"]})
        run.finish(exit_code=0 if row["state"] == "done" else 1)

    def law(self, fit: Mapping[str, Any]) -> None:
        run = self._open(f"law-{self.sweep}", f"law of {self.sweep}", {"law": fit.get("law")}, "law")
        run.define_metric("*", step_metric="n_runs")
        run.log({"n_runs": fit["n_runs"], **law_scalars(fit)})
        run.finish(exit_code=0)

    def close(self) -> None:
        for run in self.runs.values():
            run.finish(exit_code=0)

    def _open(self, run_id: str, name: str, config: dict[str, Any], kind: str) -> wandb.Run:
        return wandb.init(
            project=os.environ.get("WANDB_PROJECT", "sixnd"),
            group=self.sweep,
            job_type=kind,
            id=run_id,
            name=name,
            config=config,
            dir=self.folder,
            mode=cast("Literal['online', 'offline', 'disabled', 'shared']", os.environ.get("WANDB_MODE", "offline")),
            resume="allow",
            reinit="create_new",  # several runs are at work at once
            # This process is not the one that trains: what W&B would say of it and of its machine is no news.
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, disable_git=True),
        )
