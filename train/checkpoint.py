"""Checkpoints of a trunk at its branch points, written so that one that exists is whole."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from ..models.transformer import Transformer


def checkpoint_path(folder: Path, trunk_key: str, step: int) -> Path:
    return folder / trunk_key / f"step-{step:09d}.pt"


def save_checkpoint(path: Path, model: Transformer, optimizer: torch.optim.Optimizer) -> None:
    """Writes weights and optimizer state: to a temporary file, flushed to disk, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load_newest_checkpoint(
    folder: Path, trunk_key: str, last_step: int, model: Transformer, optimizer: torch.optim.Optimizer
) -> int:
    """Loads the newest readable checkpoint at or before `last_step`; returns its step, 0 where there is none."""
    for path in sorted((folder / trunk_key).glob("step-*.pt"), reverse=True):
        step = int(path.stem.removeprefix("step-"))
        if step > last_step:
            continue
        try:
            state = torch.load(path, map_location=model.embedding.device, weights_only=True)
        except (RuntimeError, EOFError, OSError, ValueError) as error:
            print(f"checkpoint {path} cannot be read ({type(error).__name__}): using an older one", flush=True)
            continue
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return step
    return 0
