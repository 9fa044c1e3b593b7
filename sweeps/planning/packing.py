"""How many small runs share a GPU: those of one shape stacked as one program, and several such programs beside each other."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ...models.config import ModelConfig
from ...train.memory import training_bytes
from ...train.settings import Precision
from ...train.speed import Probed

MOST_STACKED = 8  # runs of one shape as one program: what a launch costs is shared by them
MOST_BESIDE = 4  # programs on one GPU; without MPS they take turns, so that more hide little
USABLE = 0.9  # of a GPU's memory


@dataclass(frozen=True)
class Packing:
    """What a `LocalExecutor` is given."""

    slots: int = 1
    most_stacked: int = 1


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
    room = int(USABLE * device.memory_bytes)
    needs = {
        n: max(training_bytes(model, batch_tokens, "cuda", precision, n) for model in models)
        for n in range(1, min(MOST_STACKED, alike) + 1)
    }
    stacked = max((n for n, need in needs.items() if need <= room), default=1)
    beside = max(1, min(MOST_BESIDE, room // needs[stacked]))
    return Packing(workers or device.slots * beside, stacked)


def taking_turns(device: Probed, share: float | None = None) -> Probed:
    """The device with as many slots as run at the speed that one alone has: programs that share a GPU take turns on it.

    `share` is what each has of a GPU on a cluster, 0 where they have none; None where they share those of this machine.
    """
    if device.kind == "cpu":
        return device
    slots = min(device.slots, device.gpus) if share is None else int(device.slots * min(1.0, share or 1.0))
    return device.model_copy(update={"slots": max(1, slots)})
