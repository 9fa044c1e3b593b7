"""One large run on several processes, each with its own GPU or CPU cores:

    torchrun --nproc-per-node 2 -m sixnd.train.parallel SPEC.json --record RECORD.json

SPEC.json is a RunSpec. The batches are those of one process, so the loss curve agrees with it up to rounding. A model
must fit one device: its gradients are averaged after the backward pass, nothing of it is split.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from pydantic import ValidationError

from .files import atomic_file
from .loop import CHECKPOINT_SECONDS, RunError, train
from .progress import Listener
from .ranks import Ranks
from .record import RunRecord
from .spec import RunSpec

TIMEOUT = timedelta(hours=2)  # of a collective: the first rank alone writes checkpoints, and compiling takes its time


@contextmanager
def process_group() -> Iterator[Ranks]:
    """This process' place among those that torchrun started: nccl between GPUs, gloo between CPUs.

    Raises:
        RunError: torchrun did not start this process.
    """
    if "RANK" not in os.environ:
        raise RunError("not started by torchrun: torchrun --nproc-per-node 2 -m sixnd.train.parallel SPEC.json ...")
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group("nccl" if cuda else "gloo", timeout=TIMEOUT)
    try:
        yield Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size())
    finally:
        torch.distributed.destroy_process_group()


def train_in_parallel(
    spec: RunSpec, listener: Listener | None = None, say: Callable[[str], None] = print, **options: Any
) -> RunRecord | None:
    """`train` with the same `options`, as one of the processes that torchrun started.

    Returns the record on the first rank, which alone writes files and tells `listener` and `say`; None on the others.
    """
    with process_group() as ranks:
        if ranks.first:
            return train(spec, listener=listener, say=say, ranks=ranks, **options)
        train(spec, listener=lambda _: None, say=lambda _: None, ranks=ranks, **options)
        return None


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="torchrun -m sixnd.train.parallel", description="Trains one run on several processes."
    )
    parser.add_argument("spec", type=Path, help="RunSpec as JSON")
    parser.add_argument("--corpora", type=Path, help="folder of built corpora")
    parser.add_argument(
        "--checkpoints", type=Path, help="folder of checkpoints, seen by every process; none by default"
    )
    parser.add_argument("--checkpoint-seconds", type=float, default=CHECKPOINT_SECONDS, help="between periodic ones")
    parser.add_argument("--weights", type=Path, help="file for the final weights")
    parser.add_argument("--record", type=Path, help="file for the record, JSON; stdout by default")
    asked = parser.parse_args(arguments)
    options = {name: value for name, value in vars(asked).items() if name not in ("spec", "record")}
    try:
        record = train_in_parallel(_read_spec(asked.spec), **options)
    except Exception as error:
        if not hasattr(error, "exit_code"):
            raise
        if os.environ.get("RANK", "0") == "0":
            print(error, file=sys.stderr)
        return int(error.exit_code)
    if record is not None and asked.record is None:
        print(record.model_dump_json())
    elif record is not None:
        with atomic_file(asked.record) as file:
            file.write(record.model_dump_json(indent=1).encode() + b"\n")
    return 0


def _read_spec(path: Path) -> RunSpec:
    try:
        return RunSpec.model_validate_json(path.read_bytes())
    except OSError as error:
        raise RunError(f"{path}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise RunError(f"{path}: {where}: {first['msg']}") from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
