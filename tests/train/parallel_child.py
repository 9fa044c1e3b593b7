"""One of the processes of a parallel run: torchrun parallel_child.py SPEC.json CORPORA OUT [STOP]. Looks at every step."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from sixnd.train import loop
from sixnd.train.parallel import train_in_parallel
from sixnd.train.progress import Progress
from sixnd.train.spec import RunSpec


def main(spec: str, corpora: str, out: str) -> None:
    loop.LOG_EVERY = 1
    losses: list[float] = []

    def heard(progress: Progress) -> None:
        losses.append(progress.loss)

    record = train_in_parallel(
        RunSpec.model_validate_json(Path(spec).read_bytes()),
        listener=heard,
        corpora=Path(corpora),
        checkpoints=Path(out) / "checkpoints",
        weights=Path(out) / "weights.pt",
    )
    name = f"rank-{os.environ['RANK']}.json"
    (Path(out) / name).write_text(json.dumps([record and record.model_dump(), losses]))


if __name__ == "__main__":
    main(*sys.argv[1:])
