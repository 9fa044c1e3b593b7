"""Held-out loss: one full pass over the test documents, each counted as a whole.

Shape suffixes: W windows, T time (tokens).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from ..models.transformer import Transformer
from .corpus.contamination import CLEAN_BELOW
from .corpus.store import Corpus

IGNORED = -1


@dataclass(frozen=True)
class HeldOutWindows:
    """Every test document cut into windows of `context`, no window shared by two documents."""

    inputs_WT: torch.Tensor  # int64; padded with token 0
    targets_WT: torch.Tensor  # int64; IGNORED where padded
    document_W: NDArray[np.int64]

    @classmethod
    def of(cls, corpus: Corpus, context: int) -> HeldOutWindows:
        offsets = corpus.test_documents.offsets.astype(np.int64)
        starts, stops, documents = [], [], []
        for document, (first, last) in enumerate(pairwise(offsets.tolist())):
            for start in range(first, last - 1, context):
                starts.append(start)
                stops.append(min(start + context, last - 1))
                documents.append(document)
        tokens = corpus.test.windows(np.zeros(1, np.int64), len(corpus.test))[0].astype(np.int64)
        position_WT = np.asarray(starts)[:, None] + np.arange(context)
        real_WT = position_WT < np.asarray(stops)[:, None]
        inputs = np.where(real_WT, tokens[np.minimum(position_WT, len(tokens) - 1)], 0)
        targets = np.where(real_WT, tokens[np.minimum(position_WT + 1, len(tokens) - 1)], IGNORED)
        return cls(torch.from_numpy(inputs), torch.from_numpy(targets), np.asarray(documents))


@dataclass(frozen=True)
class HeldOutLoss:
    """Sums per document, and what follows from them."""

    nats: NDArray[np.float64]  # (n_documents,) summed negative log-likelihood
    tokens: NDArray[np.int64]  # (n_documents,) predicted tokens
    bytes: NDArray[np.int64]  # (n_documents,) UTF-8 bytes of the text
    source: NDArray[np.int64]  # (n_documents,) index of the source
    overlap: NDArray[np.float64]  # (n_documents,) share of its words found in the training text; nan: not looked at

    @property
    def mean(self) -> float:
        """Nats per token."""
        return float(self.nats.sum() / self.tokens.sum())

    @property
    def standard_error(self) -> float:
        """Of the mean, documents drawn at random: the ratio estimator's (Cochran 1977, Sampling Techniques, 6.4)."""
        n = len(self.nats)
        if n < 2:
            return math.nan
        spread = self.nats - self.mean * self.tokens
        return float(np.sqrt(n / (n - 1) * np.square(spread).sum()) / self.tokens.sum())

    @property
    def bits_per_byte(self) -> float:
        return float(self.nats.sum() / math.log(2) / self.bytes.sum())

    def in_band(self, clean: bool) -> float | None:
        """Nats per token of the documents that are clean of training text, or of those that are not; None where none is."""
        chosen = (self.overlap < CLEAN_BELOW) if clean else (self.overlap >= CLEAN_BELOW)
        return float(self.nats[chosen].sum() / self.tokens[chosen].sum()) if chosen.any() else None

    def by_source(self, names: tuple[str, ...]) -> dict[str, float]:
        """Nats per token of each source that has a test document."""
        return {
            name: float(self.nats[self.source == i].sum() / self.tokens[self.source == i].sum())
            for i, name in enumerate(names)
            if (self.source == i).any()
        }


def evaluate(model: Transformer, corpus: Corpus, windows: HeldOutWindows, rows: int, dtype: torch.dtype) -> HeldOutLoss:
    """The loss of `model` on every test document, `rows` windows at a time."""
    device = model.embedding.device
    n_documents = len(corpus.test_documents.bytes)
    nats, tokens = np.zeros(n_documents), np.zeros(n_documents, np.int64)
    for start in range(0, len(windows.document_W), rows):
        inputs_WT, targets_WT = windows.inputs_WT[start : start + rows], windows.targets_WT[start : start + rows]
        document_W = windows.document_W[start : start + rows]
        missing = rows - len(document_W)
        if missing:  # the compiled graph knows one shape
            inputs_WT = torch.cat((inputs_WT, inputs_WT.new_zeros(missing, inputs_WT.shape[1])))
            targets_WT = torch.cat((targets_WT, targets_WT.new_full((missing, targets_WT.shape[1]), IGNORED)))
        # Not under no_grad: that would compile every shape a second time.
        nll_WT, _ = model(inputs_WT.to(device), targets_WT.clamp(min=0).to(device), dtype)
        real_WT = targets_WT != IGNORED
        nats_W = (nll_WT.detach().double().cpu() * real_WT).sum(1).numpy()
        np.add.at(nats, document_W, nats_W[: len(document_W)])
        np.add.at(tokens, document_W, real_WT.sum(1).numpy()[: len(document_W)])
    held_out = corpus.test_documents
    return HeldOutLoss(nats, tokens, held_out.bytes.astype(np.int64), held_out.source, held_out.overlap)
