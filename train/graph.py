"""A step that keeps a GPU busy: its data already there, and all of its kernels launched as one CUDA graph.

Shape suffixes: M models (seeds), W windows (sequences), T time (tokens).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from .batches import BatchStream
from .corpus.store import ShardedTokens
from .optimizer import MuonWithAdamW

WARM_STEPS = 3  # eager ones before the capture: they compile, plan and allocate what a capture must find ready
SHARE_FOR_TOKENS = 0.5  # of the free memory of the device

Seen = TypeVar("Seen")


@dataclass(frozen=True)
class ResidentStream:
    """The batches of M `BatchStream`s, gathered on the device from one copy of the training tokens that stays there."""

    tokens: Tensor  # (n_tokens,) in the shards' width, as int16 or int32 (torch indexes no unsigned types)
    order_MW: Tensor  # int64: each seed's permutation of all windows
    context: int

    @classmethod
    def of(cls, streams: Sequence[BatchStream], device: torch.device) -> ResidentStream:
        tokens = streams[0].tokens
        whole = tokens.windows(np.zeros(1, np.int64), len(tokens))[0]
        signed = torch.from_numpy(whole.view(f"i{whole.itemsize}"))
        order = np.stack([stream.order for stream in streams])
        return cls(signed.to(device), torch.from_numpy(order).to(device), streams[0].context)

    def batch(self, offset: int, batch_tokens: int) -> Tensor:
        """What `BatchStream.batch` returns, for every seed: int64, (M, W, context + 1), on the device.

        Raises:
            IndexError: past the last unique token; the stream never wraps.
        """
        first, last = offset // self.context, (offset + batch_tokens) // self.context
        if last > self.order_MW.shape[1]:
            raise IndexError(f"token {offset + batch_tokens:,} lies beyond one epoch")
        start_MW1 = self.order_MW[:, first:last, None] * self.context
        position_MWT = start_MW1 + torch.arange(self.context + 1, device=self.tokens.device)
        return self.tokens[position_MWT].long().bitwise_and(2 ** (8 * self.tokens.itemsize) - 1)


@dataclass(frozen=True)
class HostStream:
    """The batches of M `BatchStream`s, read from the memory-mapped shards."""

    streams: Sequence[BatchStream]

    def batch(self, offset: int, batch_tokens: int) -> Tensor:
        """As `ResidentStream.batch`, on the CPU."""
        return torch.stack([stream.batch(offset, batch_tokens) for stream in self.streams])


def open_streams(
    tokens: ShardedTokens, context: int, seeds: Sequence[int], device: torch.device
) -> ResidentStream | HostStream:
    """The batches of each seed: from the device's own copy of the tokens where a GPU has the room, else from the host."""
    streams = [BatchStream(tokens, context, seed) for seed in seeds]
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        needed = len(tokens) * tokens.dtype.itemsize + sum(stream.order.nbytes for stream in streams)
        if needed <= SHARE_FOR_TOKENS * free:
            return ResidentStream.of(streams, device)
    return HostStream(streams)


class GraphedStep(Generic[Seen]):
    """A whole training step (forward, backward, clip, optimizer), replayed as one CUDA graph after WARM_STEPS eager ones.

    Serves one model and a stack alike. Every call trains one step, the eager ones and the capturing one included, and
    none waits for the device: that is left to whoever reads the loss. Elsewhere than on CUDA, and with Muon (which
    reads its learning rate on the host), every step is eager.
    """

    def __init__(
        self, body: Callable[[Tensor, Tensor], Seen], peak_lr: Tensor, optimizer: torch.optim.Optimizer | None = None
    ) -> None:
        """
        Args:
            body: (windows, lr) -> what is to be seen of the step (its loss, its gradient's norm); one eager step, with
                nothing in it that waits for the device.
            peak_lr: () for one model, (M,) for a stack, on the device. fp32 on CUDA where torch's fused AdamW reads it.
            optimizer: the torch optimizer that body steps, if there is one, its state loaded before.
        """
        self.body, self.peak_lr, self.optimizer = body, peak_lr, optimizer
        self._set_capturable(False)  # which a checkpoint of a captured step says it is
        self.captures = peak_lr.is_cuda and not isinstance(optimizer, MuonWithAdamW)
        # Whatever a graph reads or writes must keep its place in memory.
        self.lr = torch.zeros_like(peak_lr)
        self.windows: Tensor | None = None
        self.n_steps = 0
        if self.captures:
            self.stream = torch.cuda.Stream(peak_lr.device)
            self.graph = torch.cuda.CUDAGraph()

    def __call__(self, windows: Tensor, multiplier: float) -> Seen:
        """Trains one step at `multiplier` times the peak learning rate.

        Args:
            windows: int64, (W, context + 1), or (M, W, context + 1) for a stack; always of one shape.
            multiplier: of the schedule.

        Returns what `body` returned, on the device; the next call overwrites it.
        """
        torch.mul(self.peak_lr, multiplier, out=self.lr)
        if self.windows is None:
            self.windows = torch.empty_like(windows, device=self.lr.device)
        self.windows.copy_(windows, non_blocking=True)
        self.n_steps += 1
        if not self.captures:
            return self.body(self.windows, self.lr)
        if self.n_steps <= WARM_STEPS:
            return self._warm_up(self.windows)
        if self.n_steps == WARM_STEPS + 1:
            self._capture(self.windows)
        self.graph.replay()
        return self.seen

    def _warm_up(self, windows: Tensor) -> Seen:
        """An eager step on the stream that will capture, as libraries keep their workspaces by stream."""
        current = torch.cuda.current_stream()
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            seen = self.body(windows, self.lr)
        current.wait_stream(self.stream)
        return seen

    def _capture(self, windows: Tensor) -> None:
        """Records a step without running it."""
        self._set_capturable(True)
        with torch.cuda.graph(self.graph, stream=self.stream):
            self.seen = self.body(windows, self.lr)

    def _set_capturable(self, yes: bool) -> None:
        """A captured step's AdamW must be; of an eager one that is, torch warns."""
        for group in self.optimizer.param_groups if self.optimizer else ():
            if "capturable" in group:  # Muon's has none
                group["capturable"] = yes
