"""What a tracker is: a class that is told of runs. Five short methods; any class of them can be named as module:Class."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from ..show import short
from ..spec import SpecError

Row = Mapping[str, Any]  # of the ledger
CLASSES = {
    "wandb": "sixnd.sweeps.trackers.wandb:WandbTracker",
    "trackio": "sixnd.sweeps.trackers.trackio:TrackioTracker",
    "tensorboard": "sixnd.sweeps.trackers.tensorboard:TensorBoardTracker",
    "mlflow": "sixnd.sweeps.trackers.mlflow:MlflowTracker",
}  # each name is also that of its package and of its extra
CONFIG = ("N_total", "N_non_embedding", "D", "C_6nd", "C_exact", "lr", "batch_tokens", "seed", "n_layers", "d_model")
FINAL = ("test_loss", "test_loss_se", "bits_per_byte", "accuracy", "tokens_per_s", "wall_s")


class Tracker(Protocol):
    """Is told of the runs of one sweep, in one thread. Whatever it raises drops it and stops nothing else.

    `key` of a row names its run for good: a tracker that is told of a run it has seen before, in this process or in an
    earlier one, goes on with that run instead of making another.
    """

    def __init__(self, folder: Path, sweep: str) -> None:
        """Prepares a tracker that keeps its files in `folder`, which exists."""

    def started(self, row: Row) -> None:
        """A run is at work, for the first time or again; comes before anything else about it."""

    def progress(self, row: Row, tokens: int, loss: float, tokens_per_s: float) -> None:
        """`tokens` trained so far, training loss in nats per token, speed; about once a second, tokens always grow."""

    def finished(self, row: Row) -> None:
        """A run ended: its `state` is done, diverged, failed or censored, and the row holds what was measured."""

    def law(self, fit: Mapping[str, Any]) -> None:
        """The law was fitted anew: the content of fit.json."""

    def close(self) -> None:
        """Writes out what is held back; nothing comes after it."""


def check_trackers(names: Sequence[str]) -> None:
    """Refuses, before anything is trained, a tracker that could not be started; imports none of them.

    Raises:
        SpecError: one line for each that is unknown or not installed.
    """
    problems = []
    for name in names:
        if name in CLASSES:
            if find_spec(name) is None:
                problems.append(f"trackers: {name} is not installed: pip install 'sixnd[{name}]'")
        elif ":" not in name:
            problems.append(f"trackers: {name!r} is none; give {', '.join(CLASSES)}, or module:Class of your own")
    if len(set(names)) < len(names):
        problems.append(f"trackers: {', '.join(names)} names one twice")
    if problems:
        raise SpecError("\n".join(problems))


def load_tracker(name: str) -> type[Tracker]:
    """The class of a name, or of module:Class.

    Raises:
        SpecError: it cannot be imported, or lacks a method.
    """
    module, _, attribute = CLASSES.get(name, name).partition(":")
    try:
        found: type[Tracker] = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise SpecError(f"trackers: {name} cannot be imported: {type(error).__name__}: {error}") from None
    hooks = ("started", "progress", "finished", "law", "close")
    if missing := [hook for hook in hooks if not callable(getattr(found, hook, None))]:
        raise SpecError(f"trackers: {name} has no {', '.join(missing)}; see sixnd.sweeps.trackers.hook.Tracker")
    return found


def run_name(row: Row) -> str:
    """How a run is shown: 4x96 N442k D1M seed 0."""
    return f"{row['n_layers']}x{row['d_model']} N{short(row['N_total'])} D{short(row['D'])} seed {row['seed']}"


def config_of(row: Row) -> dict[str, int | float]:
    """What was chosen for a run."""
    return {name: row[name] for name in CONFIG if row.get(name) is not None}


def finals_of(row: Row) -> dict[str, float]:
    """What was measured of a run."""
    return {name: float(row[name]) for name in FINAL if row.get(name) is not None}


def curve_of(row: Row) -> list[tuple[int, float]]:
    """(tokens, held-out loss in nats per token) on the way; the ledger keeps it as JSON."""
    curve = row.get("curve")
    points = json.loads(curve) if isinstance(curve, str) else curve or []
    return [(int(tokens), float(loss)) for tokens, loss, *_ in points]


def law_scalars(fit: Mapping[str, Any]) -> dict[str, float]:
    """The law's parameters and the frontier's exponents a (of N) and b (of D), with their 95 % intervals."""
    frontier = fit.get("frontier", {})
    values = dict(fit.get("params", {})) | {name: frontier.get(name) for name in ("a", "b")}
    ends = dict(fit.get("ci95", {})) | {name: frontier.get(f"{name}_ci95") for name in ("a", "b")}
    for name, interval in ends.items():
        if interval:
            values |= {f"{name}_low": interval[0], f"{name}_high": interval[1]}
    return {name: float(value) for name, value in values.items() if value is not None}
