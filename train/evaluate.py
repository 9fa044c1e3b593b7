"""Held-out loss, accuracy and exact match: one pass over the documents of a held-out side, each counted as a whole.

Shape suffixes: W windows, T time (tokens), D d_model, V vocabulary, K lengths of EXACT_MATCH_TOKENS.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..models.transformer import Transformer
from .corpus.contamination import CLEAN_BELOW
from .corpus.manifest import HeldOut
from .corpus.store import Corpus
from .curve import CURVE_POSITIONS
from .record import CurvePoint

IGNORED = -1
EXACT_MATCH_TOKENS = (1, 2, 4, 8, 16)  # each twice the one before
LOGITS_AT_ONCE = 2**24  # 64 MB of fp32: what a micro-batch of a large vocabulary is cut down to


@dataclass(frozen=True)
class HeldOutWindows:
    """Every document of a held-out side cut into windows of `context`, no window shared by two documents."""

    inputs_WT: torch.Tensor  # int64; padded with token 0
    targets_WT: torch.Tensor  # int64; IGNORED where padded
    document_W: NDArray[np.int64]
    side: HeldOut = "test"

    @classmethod
    def of(cls, corpus: Corpus, context: int, side: HeldOut = "test") -> HeldOutWindows:
        offsets = corpus.documents_of(side).offsets.astype(np.int64)
        starts, stops, documents = [], [], []
        for document, (first, last) in enumerate(pairwise(offsets.tolist())):
            for start in range(first, last - 1, context):
                starts.append(start)
                stops.append(min(start + context, last - 1))
                documents.append(document)
        stored = corpus.tokens_of(side)
        tokens = stored.windows(np.zeros(1, np.int64), len(stored))[0].astype(np.int64)
        position_WT = np.asarray(starts)[:, None] + np.arange(context)
        real_WT = position_WT < np.asarray(stops)[:, None]
        inputs = np.where(real_WT, tokens[np.minimum(position_WT, len(tokens) - 1)], 0)
        targets = np.where(real_WT, tokens[np.minimum(position_WT + 1, len(tokens) - 1)], IGNORED)
        return cls(torch.from_numpy(inputs), torch.from_numpy(targets), np.asarray(documents), side)

    def sample(self, positions: int = CURVE_POSITIONS) -> HeldOutWindows:
        """Windows evenly spaced through the side, at most `positions` token positions of them (at least one window).

        The side and the context alone decide which. Windows rather than whole documents: each predicts on its own,
        and a handful of long documents would stand for one source only.
        """
        n_windows, context = self.inputs_WT.shape
        n_chosen = min(n_windows, max(1, positions // context))
        chosen = (np.arange(n_chosen) * n_windows + n_windows // 2) // n_chosen
        rows = torch.from_numpy(chosen)
        return HeldOutWindows(self.inputs_WT[rows], self.targets_WT[rows], self.document_W[chosen], self.side)


@dataclass(frozen=True)
class HeldOutLoss:
    """Sums per document, and what follows from them.

    Documents of which nothing was looked at have sums of zero: of a sample, only what is a share of tokens or positions
    holds (loss, accuracy, exact match and their errors).
    """

    nats: NDArray[np.float64]  # (n_documents,) summed negative log-likelihood
    tokens: NDArray[np.int64]  # (n_documents,) predicted tokens
    bytes: NDArray[np.int64]  # (n_documents,) UTF-8 bytes of the text
    source: NDArray[np.int64]  # (n_documents,) index of the source
    overlap: NDArray[np.float64]  # (n_documents,) share of its words found in the training text; nan: not looked at
    matches: NDArray[np.int64]  # (n_documents, K) positions whose next k tokens are each the argmax
    positions: NDArray[np.int64]  # (n_documents, K) positions that have k tokens ahead in their window

    @property
    def mean(self) -> float:
        """Nats per token."""
        return float(self.nats.sum() / self.tokens.sum())

    @property
    def standard_error(self) -> float:
        """Of the mean, documents drawn at random; nan where there are fewer than two. See `ratio_standard_error`."""
        return ratio_standard_error(self.nats, self.tokens)

    @property
    def bits_per_byte(self) -> float:
        return float(self.nats.sum() / math.log(2) / self.bytes.sum())

    @property
    def accuracy(self) -> float:
        """Share of the tokens that are the argmax of their logits: exact match of one token."""
        return self.exact_match[1]

    @property
    def exact_match(self) -> dict[int, float]:
        """By k, the share of positions whose next k tokens are each the argmax, given the true tokens before it.

        That is the probability that greedy decoding from a position reproduces the next k tokens: as long as it has not
        failed, its input is the true text. A k that no window is long enough for is left out.
        """
        matches, positions = self.matches.sum(0), self.positions.sum(0)
        return {k: float(m / n) for k, m, n in zip(EXACT_MATCH_TOKENS, matches, positions, strict=True) if n}

    @property
    def exact_match_se(self) -> dict[int, float]:
        """Standard error of each exact match, documents drawn at random."""
        return {
            k: ratio_standard_error(self.matches[:, i], self.positions[:, i])
            for i, k in enumerate(EXACT_MATCH_TOKENS)
            if self.positions[:, i].any()
        }

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

    def point(self, tokens: int) -> CurvePoint:
        """This loss as the point of a training curve after `tokens`."""
        error = self.standard_error
        return CurvePoint(tokens, self.mean, None if math.isnan(error) else error)


def ratio_standard_error(totals: NDArray[np.generic], sizes: NDArray[np.int64]) -> float:
    """Standard error of sum(totals) / sum(sizes) over clusters drawn at random; clusters of size 0 do not count.

    The ratio estimator's (Cochran 1977, Sampling Techniques, 6.4); nan for fewer than two clusters.
    """
    n = int((sizes > 0).sum())
    if n < 2:
        return math.nan
    spread = totals - totals.sum() / sizes.sum() * sizes
    return float(np.sqrt(n / (n - 1) * np.square(spread).sum()) / sizes.sum())


def evaluate(model: Transformer, corpus: Corpus, windows: HeldOutWindows, rows: int, dtype: torch.dtype) -> HeldOutLoss:
    """Loss and matches of `model` on `windows` of the corpus' held-out documents, `rows` windows at a time."""
    held_out, n_lengths = corpus.documents_of(windows.side), len(EXACT_MATCH_TOKENS)
    sums = np.zeros((len(held_out.bytes), 2 + 2 * n_lengths))  # nats, tokens, matches, positions; counts are exact
    for start in range(0, len(windows.document_W), rows):
        inputs_WT, targets_WT = windows.inputs_WT[start : start + rows], windows.targets_WT[start : start + rows]
        document_W = windows.document_W[start : start + rows]
        missing = rows - len(document_W)
        if missing:  # the compiled graph knows one shape
            inputs_WT = torch.cat((inputs_WT, inputs_WT.new_zeros(missing, inputs_WT.shape[1])))
            targets_WT = torch.cat((targets_WT, targets_WT.new_full((missing, targets_WT.shape[1]), IGNORED)))
        nll_WT, correct_WT = score(model, inputs_WT, targets_WT.clamp(min=0), dtype)
        real_WT = targets_WT != IGNORED
        nats_W1 = (nll_WT.double() * real_WT).sum(1, keepdim=True)
        counts = (real_WT.sum(1, keepdim=True), runs(correct_WT & real_WT), runs(real_WT))
        np.add.at(sums, document_W, torch.cat((nats_W1, *counts), dim=1).numpy()[: len(document_W)])
    counts_of_documents = sums[:, 1:].astype(np.int64)
    return HeldOutLoss(
        nats=sums[:, 0],
        tokens=counts_of_documents[:, 0],
        bytes=held_out.bytes.astype(np.int64),
        source=held_out.source,
        overlap=held_out.overlap,
        matches=counts_of_documents[:, 1 : 1 + n_lengths],
        positions=counts_of_documents[:, 1 + n_lengths :],
    )


def score(model: Transformer, inputs_WT: Tensor, targets_WT: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Of each target, its negative log-likelihood in nats (fp32) and whether it is the argmax; each (W, T), on the CPU."""
    device = model.embedding.device
    # With gradients: without them every block would be compiled a second time. The head below has its own code anyway.
    hidden_WTD = model.hidden(inputs_WT.to(device), dtype).detach()
    fits = LOGITS_AT_ONCE // (inputs_WT.shape[1] * len(model.embedding))
    rows = max(n for n in range(1, max(1, fits) + 1) if len(inputs_WT) % n == 0)  # pieces of one shape: one compilation
    pieces = zip(hidden_WTD.split(rows), targets_WT.to(device).split(rows), strict=True)
    with torch.no_grad():
        scores = [model.head.score(model.head, x_WTD, model.embedding, wanted_WT) for x_WTD, wanted_WT in pieces]
    nll, correct = zip(*scores, strict=True)
    return torch.cat(nll).cpu(), torch.cat(correct).cpu()


def runs(flags_WT: Tensor) -> Tensor:
    """How many positions of each window start k flags in a row, for each k of EXACT_MATCH_TOKENS: (W, K)."""
    counts = []
    for k in EXACT_MATCH_TOKENS:
        if k > 1:  # a run of k is one of k/2 and another right after it
            flags_WT = flags_WT[:, : -(k // 2)] & flags_WT[:, k // 2 :]
        counts.append(flags_WT.sum(1))
    return torch.stack(counts, dim=1)
