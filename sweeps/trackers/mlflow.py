"""MLflow: a SQLite file in the sweep's folder, or the server that MLFLOW_TRACKING_URI names."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when the module is imported

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from .hook import Row, config_of, curve_of, finals_of, law_scalars, run_name

KEY_TAG = "sixnd.key"  # MLflow chooses its ids itself: a run that goes on is found by this


class MlflowTracker:
    """An MLflow run for each run, tagged with its key; the sweep is their experiment. Steps are tokens."""

    def __init__(self, folder: Path, sweep: str) -> None:
        own = f"sqlite:///{folder.resolve() / 'mlflow.db'}"  # MLflow refuses its former ./mlruns
        self.client = MlflowClient(tracking_uri=os.environ.get("MLFLOW_TRACKING_URI", own))
        found = self.client.get_experiment_by_name(sweep)
        place = None if "MLFLOW_TRACKING_URI" in os.environ else (folder.resolve() / "artifacts").as_uri()
        self.experiment = (
            found.experiment_id if found else self.client.create_experiment(sweep, artifact_location=place)
        )
        self.runs: dict[str, str] = {}

    def started(self, row: Row) -> None:
        self.runs[row["key"]] = self._open(row["key"], run_name(row), config_of(row))

    def progress(self, row: Row, tokens: int, loss: float, tokens_per_s: float) -> None:
        self._log(self.runs[row["key"]], [("train/loss", loss, tokens), ("train/tokens_per_s", tokens_per_s, tokens)])

    def finished(self, row: Row) -> None:
        run = self.runs.pop(row["key"])
        curve = [("curve/loss", loss, tokens) for tokens, loss in curve_of(row)]
        self._log(run, curve + [(name, value, row["D"]) for name, value in finals_of(row).items()])
        self.client.set_tag(run, "state", row["state"])
        if row["error"]:
            self.client.set_tag(run, "error", row["error"])
        self.client.set_terminated(run, "FINISHED" if row["state"] == "done" else "FAILED")

    def law(self, fit: Mapping[str, Any]) -> None:
        run = self._open("law", "law", {})
        self._log(run, [(name, value, fit["n_runs"]) for name, value in law_scalars(fit).items()])
        self.client.set_terminated(run, "FINISHED")

    def close(self) -> None:
        """Runs that are still at work stay RUNNING: the sweep goes on with them."""

    def _open(self, key: str, name: str, config: Mapping[str, Any]) -> str:
        found = self.client.search_runs([self.experiment], f"tags.`{KEY_TAG}` = '{key}'", max_results=1)
        if found:
            self.client.update_run(found[0].info.run_id, status="RUNNING")
            return str(found[0].info.run_id)
        run = self.client.create_run(self.experiment, run_name=name, tags={KEY_TAG: key})
        self.client.log_batch(run.info.run_id, params=[Param(name, str(value)) for name, value in config.items()])
        return str(run.info.run_id)

    def _log(self, run: str, points: Sequence[tuple[str, float, int]]) -> None:
        """(name, value, step) of each; one transaction."""
        now = int(time.time() * 1000)
        self.client.log_batch(run, metrics=[Metric(name, value, now, step) for name, value, step in points])
