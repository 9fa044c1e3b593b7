"""How many small runs share a GPU: those of one shape stacked as one program, and several such programs beside each other."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ...models.config import ModelConfig
from ...train.memory import USABLE, most_stacked, training_bytes
from ...train.settings import Precision
from ...train.speed import Probed
from ..spec import SweepSpec
from .plan import Plan

MOST_BESIDE = 4  # programs on one GPU; without MPS they take turns, so that more hide little


@dataclass(frozen=True)
class Packing:
    """What an executor is given."""

    slots: int = 1
    most_stacked: int | None = None  # runs of one shape as one program; None where this machine has no GPU to ask


def can_stack(sweep: SweepSpec) -> bool:
    """Whether runs of one shape may be trained as one program on a GPU: Muon and part of a GPU take single runs."""
    whole = sweep.executor == "local" or sweep.ray.gpus_per_run >= 1
    return whole and sweep.train.optimizer == "adamw"


def alike_in(sweep: SweepSpec) -> int:
    """Runs of a cell that one program may train at once."""
    return len(sweep.seeds) if can_stack(sweep) else 1


def packing_of(sweep: SweepSpec, plan: Plan, device: Probed) -> Packing:
    """`packing` of a plan's models."""
    models = {run.model for run in plan.runs}
    return packing(device, models, sweep.train.batch_tokens, plan.precision, sweep.workers, alike_in(sweep))


def packing(
    device: Probed,
    models: Collection[ModelConfig],
    batch_tokens: int,
    precision: Precision,
    workers: int | None,
    alike: int,
) -> Packing:
    """On CPUs a run a slot, unstacked: stacking gains nothing there. On GPUs as many as the largest model leaves room for.

    Args:
        workers: the number of slots that was asked for, in place of what the memory would hold.
        alike: the most trunks that differ in seed and learning rate alone.
    """
    if device.kind == "cpu":
        return Packing(device.slots)
    stacked = most_stacked(models, batch_tokens, precision, device.memory_bytes, alike)
    need = max(training_bytes(model, batch_tokens, "cuda", precision, stacked) for model in models)
    beside = max(1, min(MOST_BESIDE, int(USABLE * device.memory_bytes) // need))
    return Packing(workers or device.slots * beside, stacked)


def in_turns(sweep: SweepSpec, device: Probed) -> Probed:
    """What trains the sweep, with the slots that forecasts count."""
    return taking_turns(device, sweep.ray.gpus_per_run if sweep.executor == "ray" else None)


def taking_turns(device: Probed, share: float | None = None) -> Probed:
    """The device with as many slots as run at the speed that one alone has: programs that share a GPU take turns on it.

    `share` is what each has of a GPU on a cluster, 0 where they have none; None where they share those of this machine.
    """
    if device.kind == "cpu":
        return device
    slots = min(device.slots, device.gpus) if share is None else int(device.slots * min(1.0, share or 1.0))
    return device.model_copy(update={"slots": max(1, slots)})
