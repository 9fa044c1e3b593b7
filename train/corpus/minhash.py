"""MinHash signatures: a few numbers per text, of which as many agree as the texts have shingles in common.

A shingle is a word n-gram. A signature holds, for each of a set of hash functions, the least hash of any shingle; two
texts agree in one of them with a probability equal to the Jaccard similarity of their shingle sets (Broder 1997).

Shape suffixes: T texts, S shingles, H hash functions (bands x rows).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .spec import NearDuplicates
from .words import BASE, NGRAM_BASE, U64, Words, mix, ngrams

CHUNK = 2**15  # shingles at a time: 128 kB of them and 128 kB of their hashes stay in the second-level cache
NO_WORDS = np.uint32(2**32 - 1)  # fills the signature of a text without words; `near_first` passes over it


def signatures(words: Words, near: NearDuplicates) -> NDArray[np.uint32]:
    """The (T, bands * rows) signatures of some texts; each depends on its own text, `near.ngram` and `near.seed` alone.

    A text of fewer words than `near.ngram` has one shingle, all of its words, so that short equal texts agree. One
    without words has NO_WORDS throughout, which stands for no shingle and is never taken for a duplicate.
    """
    multipliers_H = _multipliers(near)
    minima_HT = np.full((len(multipliers_H), len(words.counts_T)), NO_WORDS)
    _lower_by_ngrams(minima_HT, words, near.ngram, multipliers_H)
    short_T = np.flatnonzero((words.counts_T > 0) & (words.counts_T < near.ngram))
    minima_HT[:, short_T] = _whole_texts(words, short_T) * multipliers_H[:, None]
    return np.ascontiguousarray(minima_HT.T)


def _multipliers(near: NearDuplicates) -> NDArray[np.uint32]:
    """A hash function is x -> a x mod 2^32 with a odd, which permutes the 32-bit numbers (Dietzfelbinger et al. 1997)."""
    numbers_H = np.arange(1, near.bands * near.rows + 1, dtype=U64)
    seed = U64(near.seed * NGRAM_BASE % 2**64)
    return (mix(numbers_H * U64(BASE) + seed) >> U64(32)).astype(np.uint32) | np.uint32(1)


def _lower_by_ngrams(minima_HT: NDArray[np.uint32], words: Words, n: int, multipliers_H: NDArray[np.uint32]) -> None:
    """Lowers the minima of each text that has n-grams to its least hash, a chunk of shingles at a time."""
    grams = ngrams(words, n)
    shingles_S = grams.hashes_G.astype(np.uint32)  # the low half of a mixed hash is as good as the whole
    text_of_run = np.flatnonzero(np.diff(grams.offsets_T1))  # the texts with shingles: reduceat takes no empty run
    starts = grams.offsets_T1[text_of_run]
    hashes = np.empty(CHUNK, np.uint32)
    for begin in range(0, len(shingles_S), CHUNK):
        chunk_S = shingles_S[begin : begin + CHUNK]
        first = np.searchsorted(starts, begin, side="right") - 1  # the text that the chunk begins within
        last = np.searchsorted(starts, begin + len(chunk_S))
        runs = np.maximum(starts[first:last] - begin, 0)
        texts = text_of_run[first:last]
        for row_T, multiplier in zip(minima_HT, multipliers_H, strict=True):
            np.multiply(chunk_S, multiplier, out=hashes[: len(chunk_S)])
            minima = np.minimum.reduceat(hashes[: len(chunk_S)], runs)
            row_T[texts] = np.minimum(row_T[texts], minima)


def _whole_texts(words: Words, short_T: NDArray[np.int64]) -> NDArray[np.uint32]:
    """One hash of all the words of each of these texts."""
    counts, starts = words.counts_T[short_T], words.offsets_T1[short_T]
    hashes = np.zeros(len(short_T), U64)
    for k in range(counts.max(initial=0)):
        longer = counts > k
        hashes[longer] = hashes[longer] * U64(NGRAM_BASE) + words.hashes_W[starts[longer] + k]
    return mix(hashes).astype(np.uint32)
