"""What tests of resuming share: runs that stop where they are told, and records without their times."""

from __future__ import annotations

import pytest
import torch
from sixnd.train.batches import BatchStream
from sixnd.train.record import RunRecord
from sixnd.train.spec import RunSpec

TIMES = {"tokens_per_s", "wall_s", "finished_at"}


def quiet(_: str) -> None: ...


def result(record: RunRecord) -> dict[str, object]:
    return record.model_dump(exclude=TIMES)


def stop_before_step(patch: pytest.MonkeyPatch, spec: RunSpec, step: int) -> None:
    """Interrupts a run that has done `step` steps."""
    batch = BatchStream.batch

    def stopping(stream: BatchStream, offset: int, batch_tokens: int) -> torch.Tensor:
        if offset == step * spec.batch_tokens:
            raise KeyboardInterrupt
        return batch(stream, offset, batch_tokens)

    patch.setattr(BatchStream, "batch", stopping)
