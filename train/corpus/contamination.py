"""How much of each test document also stands in the training text, by word n-grams.

A word of a test document is contaminated if it lies in an n-gram that the training text has too; a document's share is
that of its contaminated words. The share and its bands are those of Llama 2 (Touvron et al. 2023, appendix A.6: tokens in
common n-grams of more than 10; clean below 20 %, dirty from 80 %), and n = 13 words without case and punctuation is that
of GPT-3 (Brown et al. 2020, appendix C, where a single common n-gram makes a document dirty). N-grams match word for word
here, with no skipped tokens as in the one, and count however frequent they are in the training text, unlike in the other.

A document of fewer than n words has no n-gram, and nothing can be said of it: its share is 0, and `is_measured_T` tells
it from a clean one. GPT-3 lowers n for short examples, to 8 and no further, since shorter ones match by chance.

Shape suffixes: T test documents, W their words, G n-grams, U distinct n-grams, F bytes of the filter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from .words import U64, Words, ngrams

Band = Literal["clean", "partly", "dirty"]
BANDS: tuple[Band, ...] = ("clean", "partly", "dirty")
CLEAN_BELOW, DIRTY_FROM = 0.2, 0.8
FILTER_BITS = 16  # at least for each n-gram, so that at most one in 16 of all others is looked for in vain


def band(share: float) -> Band:
    """The band of a document of which this share of words is contaminated."""
    if share < CLEAN_BELOW:
        return "clean"
    return "partly" if share < DIRTY_FROM else "dirty"


@dataclass(frozen=True)
class GramSet:
    """Distinct n-grams, and a quick way to pass over text that has none of them; 10 to 12 bytes an n-gram.

    All that a worker process needs to search training text.
    """

    n: int
    hashes_U: NDArray[np.uint64]  # sorted
    filter_F: NDArray[np.uint8]  # a bit for each possible start of a hash: whether some n-gram has it

    @classmethod
    def of(cls, hashes_U: NDArray[np.uint64], n: int) -> Self:
        filter_F = np.zeros(2 ** max(0, (FILTER_BITS * len(hashes_U)).bit_length() - 3), np.uint8)
        byte_U, bit_U = _place(hashes_U, len(filter_F))
        np.bitwise_or.at(filter_F, byte_U, bit_U)
        return cls(n, hashes_U, filter_F)

    def found_in(self, words: Words) -> NDArray[np.int64]:
        """Which of the n-grams some texts hold: their numbers in [0, U), sorted."""
        hashes_G = ngrams(words, self.n).hashes_G
        byte_G, bit_G = _place(hashes_G, len(self.filter_F))
        candidates = np.unique(hashes_G[(self.filter_F[byte_G] & bit_G) != 0])
        number = np.minimum(np.searchsorted(self.hashes_U, candidates), len(self.hashes_U) - 1)
        found: NDArray[np.int64] = number[self.hashes_U[number] == candidates]
        return found


@dataclass(frozen=True)
class GramIndex:
    """The n-grams of the test documents, and where they stand in them; 25 to 28 bytes a word of the test documents.

    Training text streams past `found_in`, in any batches; what was found in all of them decides the overlap.
    """

    distinct: GramSet
    number_G: NDArray[np.int64]  # of each n-gram among the distinct ones
    first_word_G: NDArray[np.int64]
    offsets_T1: NDArray[np.int64]  # (T + 1,): the words of document t are [offsets[t], offsets[t + 1])

    @classmethod
    def build(cls, words: Words, n: int) -> Self:
        grams = ngrams(words, n)
        hashes_U, number_G = np.unique(grams.hashes_G, return_inverse=True)
        return cls(GramSet.of(hashes_U, n), number_G, grams.first_word_G, words.offsets_T1)

    @property
    def grams_U(self) -> NDArray[np.uint64]:
        """Hashes of the distinct n-grams, sorted; an n-gram's number is its place here."""
        return self.distinct.hashes_U

    @property
    def is_measured_T(self) -> NDArray[np.bool_]:
        """Which test documents have an n-gram at all."""
        return np.diff(self.offsets_T1) >= self.distinct.n

    def found_in(self, words: Words) -> NDArray[np.int64]:
        """Which distinct n-grams of the test documents some training texts hold: their numbers in [0, U), sorted."""
        return self.distinct.found_in(words)

    def overlap(self, found_U: NDArray[np.bool_]) -> NDArray[np.float64]:
        """(T,): the share of each test document's words that lie in an n-gram marked in `found_U`."""
        first_word = self.first_word_G[found_U[self.number_G]]
        steps_W1 = np.zeros(self.offsets_T1[-1] + 1, np.int32)  # +1 where an n-gram begins, -1 after its last word
        steps_W1[first_word] += 1
        steps_W1[first_word + self.distinct.n] -= 1
        contaminated_W = np.cumsum(steps_W1[:-1]) > 0
        before_W1 = np.concatenate([[0], np.cumsum(contaminated_W)])
        return np.diff(before_W1[self.offsets_T1]) / np.maximum(np.diff(self.offsets_T1), 1)


def _place(hashes: NDArray[np.uint64], n_bytes: int) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    """The byte and the bit of a filter for each hash, by its leading bits; `n_bytes` is a power of 2."""
    slots = hashes >> U64(64 - n_bytes.bit_length() - 2)
    return slots >> U64(3), np.uint8(1) << (slots & U64(7)).astype(np.uint8)
