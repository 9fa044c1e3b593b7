"""How much of a text repeats itself, in word n-grams: vectorised over the words of many texts at once.

An n-gram can only repeat where its first n - 1 words do, so each length looks at what is left of the one before; in prose
that is a few percent from 5-grams on.

Shape suffixes: T texts, W words, G n-grams (all, or those still looked at), R n-grams that differ from one another.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .words import NGRAM_BASE, U64, Words, mix

TOP, DUPLICATE = (2, 3, 4), (5, 6, 7, 8, 9, 10)  # Rae et al. 2021, table A1


def ngram_shares(words: Words, chars_W: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Shares (T,) of the characters of a text's words, by "top 2-gram" to "top 4-gram", "duplicate 5-gram" to "duplicate 10-gram".

    Top: those of the n-gram that comes most often (of several the longest), times how often it comes; nothing where none
    comes twice. Duplicate: those of n-grams that came before in the text, characters in two of them counted once; the
    first occurrence is no duplicate. Rae et al. 2021, appendix A.1.1.
    """
    texts_W = np.repeat(np.arange(len(words.counts_T)), words.counts_T)
    chars_T = np.maximum(per_text(chars_W, words.offsets_T1), 1)
    chars_to_W1 = _before(chars_W)
    first_word_G = np.arange(len(texts_W))
    hashes_G = words.hashes_W + mix(texts_W.astype(U64))  # so that an n-gram has another hash in another text
    shares = {}
    for n in range(TOP[0], DUPLICATE[-1] + 1):
        inside_G = first_word_G + n <= words.offsets_T1[texts_W[first_word_G] + 1]
        first_word_G = first_word_G[inside_G]
        hashes_G = hashes_G[inside_G] * U64(NGRAM_BASE) + words.hashes_W[first_word_G + n - 1]
        repeated = _repeated(hashes_G, first_word_G)
        first_word_G, hashes_G = first_word_G[repeated.members_G], hashes_G[repeated.members_G]
        if n in TOP:
            chars_R = (chars_to_W1[repeated.first_word_R + n] - chars_to_W1[repeated.first_word_R]) * repeated.sizes_R
            counted_T = _of_most_frequent(texts_W[repeated.first_word_R], repeated.sizes_R, chars_R, len(chars_T))
            shares[f"top {n}-gram"] = counted_T / chars_T
        else:
            later_G = first_word_G != np.repeat(repeated.first_word_R, repeated.sizes_R)
            inside_W = covered(first_word_G[later_G], n, len(texts_W))
            shares[f"duplicate {n}-gram"] = per_text(chars_W * inside_W, words.offsets_T1) / chars_T
    return shares


def per_text(values_W: NDArray[np.int64], offsets_T1: NDArray[np.int64]) -> NDArray[np.int64]:
    """The sum (T,) of each text's values; whole numbers, so that it is the same in any batch."""
    return np.diff(_before(values_W)[offsets_T1])


def covered(first_word_G: NDArray[np.int64], n: int, n_words: int) -> NDArray[np.bool_]:
    """Which of the words (W,) are in one of the n-grams; no n-gram may be given twice."""
    steps = np.zeros(n_words + 1, np.int64)
    steps[first_word_G] += 1
    steps[first_word_G + n] -= 1
    return np.cumsum(steps)[:-1] > 0


def _before(values_W: NDArray[np.int64]) -> NDArray[np.int64]:
    """The sum (W + 1,) of all values before each, and of all."""
    sums = np.zeros(len(values_W) + 1, np.int64)
    np.cumsum(values_W, out=sums[1:])
    return sums


@dataclass(frozen=True)
class _Repeated:
    """The n-grams that come more than once, those that are equal next to each other."""

    members_G: NDArray[np.int64]  # where they stand in what was searched
    sizes_R: NDArray[np.int64]  # how often each comes
    first_word_R: NDArray[np.int64]  # where each comes first


def _repeated(hashes_G: NDArray[np.uint64], first_word_G: NDArray[np.int64]) -> _Repeated:
    order = np.argsort(hashes_G)
    in_order = hashes_G[order]
    begins = np.concatenate([[0], np.flatnonzero(in_order[1:] != in_order[:-1]) + 1])
    sizes = np.diff(begins, append=len(order))
    members_G, sizes_R = order[np.repeat(sizes > 1, sizes)], sizes[sizes > 1]
    begins_R = np.cumsum(sizes_R) - sizes_R
    return _Repeated(members_G, sizes_R, np.minimum.reduceat(first_word_G[members_G], begins_R))


def _of_most_frequent(
    texts_R: NDArray[np.int64], sizes_R: NDArray[np.int64], chars_R: NDArray[np.int64], n_texts: int
) -> NDArray[np.int64]:
    """Characters (T,) of each text's most frequent n-gram."""
    most_T, chars_T = np.zeros(n_texts, np.int64), np.zeros(n_texts, np.int64)
    np.maximum.at(most_T, texts_R, sizes_R)
    is_top_R = sizes_R == most_T[texts_R]
    np.maximum.at(chars_T, texts_R[is_top_R], chars_R[is_top_R])
    return chars_T
