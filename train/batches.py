"""Batches as a pure function of (seed, token offset): no loader, no state, nothing to resume."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from .corpus.store import ShardedTokens, unique_tokens


@dataclass(frozen=True)
class BatchStream:
    """The training tokens cut into windows of `context`, in an order that `seed` alone decides.

    Every run of a seed sees a prefix of the same stream, whatever its batch size, and no window comes twice.
    """

    tokens: ShardedTokens
    context: int
    seed: int
    order: NDArray[np.int64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        n_windows = unique_tokens(len(self.tokens), self.context) // self.context
        object.__setattr__(self, "order", np.random.default_rng(self.seed).permutation(n_windows))

    def batch(self, offset: int, batch_tokens: int) -> torch.Tensor:
        """The windows of tokens [offset, offset + batch_tokens): int64, (batch_tokens / context, context + 1).

        Columns [:-1] are inputs and [1:] are targets.

        Raises:
            IndexError: past the last unique token; the stream never wraps.
        """
        first, last = offset // self.context, (offset + batch_tokens) // self.context
        if last > len(self.order):
            raise IndexError(f"token {offset + batch_tokens:,} lies beyond one epoch")
        windows = self.tokens.windows(self.order[first:last] * self.context, self.context + 1)
        return torch.from_numpy(windows.astype(np.int64))
