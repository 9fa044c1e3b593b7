"""What changes while a run trains, and its checkpoints: whole or absent, checked before they are used, and few.

    <root>/<trunk key>/branch-<step>.pt              where a run of some D left the trunk; stays for longer runs
    <root>/<trunk key>/periodic-<step>.pt            the two newest
    <root>/<trunk key>/<run key>/periodic-<step>.pt  the two newest of one run's cooldown, which no other run may see

A file is one line, `sixnd checkpoint <format> sha256 <digest of the rest>`, then what torch.save wrote.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from ..models.transformer import Transformer
from .divergence import LossWatch
from .files import atomic_file, remove_stale
from .record import CurvePoint
from .spec import RunSpec, Stack, branch_file

FORMAT = 1
KEPT = 2  # periodic checkpoints of a trunk or a run: the newest, and one to fall back on


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; its message is one line."""


@dataclass
class TrainState:
    """All that a step changes. Batches are functions of the step, so that there is no loader among it."""

    model: Transformer
    optimizer: torch.optim.Optimizer
    watch: LossWatch
    step: int = 0  # steps done
    curve: dict[int, CurvePoint] = field(default_factory=dict)  # evaluations so far, by steps done

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "watch": self.watch.state_dict(),
            "curve": {step: tuple(point) for step, point in self.curve.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.watch.load_state_dict(state["watch"])
        self.step = state["step"]
        self.curve = {step: CurvePoint(*point) for step, point in state["curve"].items()}


class State(Protocol):
    """What a checkpoint holds: of one run, or of a stack of them."""

    step: int

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints that one run, or a stack of them, may use."""

    root: Path
    spec: RunSpec | Stack

    @property
    def trunk(self) -> Path:
        return self.root / self.spec.trunk_key

    @property
    def cooldown(self) -> Path:
        return self.trunk / self.spec.key

    def path(self, step: int) -> Path:
        """Where the state after `step` steps goes: past the branch point to the run itself, before it to the trunk."""
        if step == self.spec.branch_step:
            return self.root / branch_file(self.spec)
        folder = self.cooldown if step > self.spec.branch_step else self.trunk
        return folder / f"periodic-{step:09d}.pt"

    def save(self, state: State) -> None:
        """Writes `state`, then removes the periodic checkpoints beside it that it makes superfluous."""
        path = self.path(state.step)
        write_checkpoint(path, {"key": self._key(path), "state": state.state_dict()})
        # By time of writing: a longer run that was stopped may have left ones of later steps.
        with suppress(FileNotFoundError):  # the same run, started twice, has removed one first
            periodic = sorted(path.parent.glob("periodic-*.pt"), key=lambda p: (p.stat().st_mtime_ns, p.name))
            for old in periodic[:-KEPT]:
                old.unlink()

    def load_newest(self, state: State, say: Callable[[str], None] | None = None) -> None:
        """Loads into `state` the newest sound checkpoint of this run; without one, `state` stays as it is.

        Each one that is passed over is named in one line, on stderr where `say` is None. What a process that is
        gone had begun to write is removed.
        """
        tell = say or (lambda line: print(line, file=sys.stderr, flush=True))
        remove_stale(self.trunk, "**/*.tmp")
        paths = [path for path in self.trunk.glob("*.pt") if step_of(path) <= self.spec.branch_step]
        for path in sorted([*paths, *self.cooldown.glob("*.pt")], key=step_of, reverse=True):
            try:
                saved = read_checkpoint(path)
                if saved["key"] != self._key(path):
                    raise CheckpointError(f"belongs to {saved['key']}, not to {self._key(path)}")
            except CheckpointError as error:
                tell(f"checkpoint {path}: {error}; using an older one")
                continue
            state.load_state_dict(saved["state"])
            return

    def finish(self) -> None:
        """Removes what only a run that is still going needs; branch points stay for runs of other D."""
        shutil.rmtree(self.cooldown, ignore_errors=True)
        if self.path(self.spec.branch_step).exists():
            for path in self.trunk.glob("periodic-*.pt"):
                if step_of(path) <= self.spec.branch_step:
                    path.unlink(missing_ok=True)

    def _key(self, path: Path) -> str:
        return self.spec.key if path.parent == self.cooldown else self.spec.trunk_key


def step_of(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
    with atomic_file(path) as file:
        file.write(f"sixnd checkpoint {FORMAT} sha256 {digest}\n".encode())
        file.write(buffer.getbuffer())


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU, its checksum compared before anything of it is interpreted.

    Raises:
        CheckpointError: unreadable, damaged, or of another format.
    """
    try:
        with path.open("rb") as file:
            header, body = file.readline(200).decode("ascii", "replace").split(), file.read()
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror})") from None
    if header[:2] != ["sixnd", "checkpoint"] or len(header) != 5:
        raise CheckpointError("is not a checkpoint of this sixnd, or its first line is damaged")
    if header[2] != str(FORMAT):
        raise CheckpointError(f"has format {header[2]}, this sixnd reads {FORMAT}")
    if hashlib.sha256(body).hexdigest() != header[4]:
        raise CheckpointError("is truncated or damaged: its content does not match its checksum")
    try:
        content: dict[str, Any] = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"cannot be read by torch {torch.__version__} ({type(error).__name__})") from None
    return content


def save_weights(path: Path, model: Transformer) -> None:
    """Writes the fp32 weights alone, for torch.load(path, weights_only=True)."""
    with atomic_file(path) as file:
        torch.save({name: tensor.cpu() for name, tensor in model.state_dict().items()}, file)
