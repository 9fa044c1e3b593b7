"""TensorBoard: a folder of event files a run. Written with TensorBoard's own writer, which needs neither torch nor TensorFlow."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from .hook import Row, config_of, curve_of, finals_of, law_scalars, run_name


class TensorBoardTracker:
    """`tensorboard --logdir FOLDER`. A run's folder bears its key: one that goes on gets another file in the same folder."""

    def __init__(self, folder: Path, sweep: str) -> None:  # noqa: ARG002  (the folder is the sweep's)
        self.folder = folder
        self.writers: dict[str, EventFileWriter] = {}

    def started(self, row: Row) -> None:
        writer = EventFileWriter(str(self.folder / f"{run_name(row).replace(' ', '-')}-{row['key']}"))
        writer.add_event(Event(wall_time=time.time(), summary=hparams_pb(config_of(row))))
        self.writers[row["key"]] = writer

    def progress(self, row: Row, tokens: int, loss: float, tokens_per_s: float) -> None:
        self._add(self.writers[row["key"]], tokens, {"train/loss": loss, "train/tokens_per_s": tokens_per_s})

    def finished(self, row: Row) -> None:
        writer = self.writers.pop(row["key"])
        for tokens, loss in curve_of(row):
            self._add(writer, tokens, {"curve/loss": loss})
        self._add(writer, row["D"], {f"final/{name}": value for name, value in finals_of(row).items()})
        writer.close()

    def law(self, fit: Mapping[str, Any]) -> None:
        writer = EventFileWriter(str(self.folder / "law"))
        self._add(writer, fit["n_runs"], {f"law/{name}": value for name, value in law_scalars(fit).items()})
        writer.close()

    def close(self) -> None:
        for writer in self.writers.values():
            writer.close()

    def _add(self, writer: EventFileWriter, step: int, scalars: Mapping[str, float]) -> None:
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        writer.flush()
