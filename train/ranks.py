"""The processes that train one run together: who this one is, and how gradients are averaged over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """This process among `world` of them, each of which trains on its share of every batch (data parallelism)."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files and is listened to."""
        return self.rank == 0

    def share(self, offset: int, batch_tokens: int) -> tuple[int, int]:
        """(offset, tokens) of this rank's rows of the global batch at `offset`: contiguous, an equal share."""
        tokens = batch_tokens // self.world
        return offset + self.rank * tokens, tokens

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor by its mean over the ranks, in one collective; every rank gets the same bits."""
        if self.world == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        torch.distributed.all_reduce(flat)
        flat /= self.world
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def agree(self, number: int, device: torch.device) -> bool:
        """Whether every rank gave the same number."""
        if self.world == 1:
            return True
        extremes = torch.tensor([number, -number], device=device)
        torch.distributed.all_reduce(extremes, torch.distributed.ReduceOp.MAX)
        return bool(extremes[0] == -extremes[1])


ALONE = Ranks()
