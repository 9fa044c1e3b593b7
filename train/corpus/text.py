"""The text of a finished corpus, decoded from its tokens: to look at, and to search for other texts.

Shape suffixes: D documents.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .contamination import GramIndex
from .manifest import Side
from .store import Corpus, ShardedTokens, Token
from .words import hash_words, join_words

CHUNK_TOKENS = 250_000  # decoded at once


@dataclass(frozen=True)
class StoredText:
    """The documents of one side of a corpus."""

    corpus: Corpus
    tokens: ShardedTokens
    bounds_D1: NDArray[np.int64]  # (D + 1,): document d is [bounds[d], bounds[d + 1]), its end-of-text token first
    source_D: NDArray[np.int64]

    @classmethod
    def of(cls, corpus: Corpus, side: Side) -> StoredText:
        """`side` is one of the corpus'."""
        tokens = corpus.train if side == "train" else corpus.tokens_of(side)
        counts = [source.sides[side].documents for source in corpus.manifest.sources]
        starts = [
            start
            + np.flatnonzero(_read(tokens, start, min(2**24, len(tokens) - start)) == corpus.manifest.end_of_text_id)
            for start in range(0, len(tokens), 2**24)
        ]
        return cls(
            corpus, tokens, np.append(np.concatenate(starts), len(tokens)), np.repeat(np.arange(len(counts)), counts)
        )

    def text(self, document: int) -> str:
        """One document, decoded."""
        return next(iter(self._decoded(document, document + 1)))

    def batches(self) -> Iterator[list[str]]:
        """All documents in order, some at a time."""
        first, n = 0, len(self.bounds_D1) - 1
        while first < n:
            last = int(np.searchsorted(self.bounds_D1, self.bounds_D1[first] + CHUNK_TOKENS))
            last = min(max(last, first + 1), n)
            yield list(self._decoded(first, last))
            first = last

    def _decoded(self, first: int, last: int) -> Sequence[str]:
        start = int(self.bounds_D1[first])
        tokens = _read(self.tokens, start, int(self.bounds_D1[last]) - start)
        cuts = self.bounds_D1[first : last + 1] - start
        ids = [tokens[a + 1 : b].tolist() for a, b in pairwise(cuts.tolist())]
        texts: list[str] = self.corpus.tokenizer().decode_batch(ids, skip_special_tokens=False)
        return texts


def overlap_with(corpus: Corpus, texts: Sequence[str], ngram: int) -> NDArray[np.float64]:
    """For each text, the share of its words in n-grams that the corpus' training text holds too."""
    grams = GramIndex.build(join_words(hash_words(texts[i : i + 1000]) for i in range(0, len(texts), 1000)), ngram)
    found = np.zeros(len(grams.grams_U), bool)
    for batch in StoredText.of(corpus, "train").batches():
        found[grams.found_in(hash_words(batch))] = True
    return grams.overlap(found)


def _read(tokens: ShardedTokens, start: int, length: int) -> NDArray[Token]:
    return tokens.windows(np.array([start], np.int64), length).reshape(-1)
