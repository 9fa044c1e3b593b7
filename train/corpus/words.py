"""Words and word n-grams as 64-bit hashes, many texts at once: what duplicates and overlaps are counted in.

A word is a run of letters and digits of the lower-cased text; a kana or a CJK ideograph is a word of its own, as those
scripts leave no spaces. Two hashes are equal by chance with probability 2^-64.

Shape suffixes: T texts, W words, G n-grams.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

U64 = np.uint64
BASE = 0x9E3779B97F4A7C15  # odd, so that its powers have inverses modulo 2^64
NGRAM_BASE = 0xC2B2AE3D27D4EB4F

_IS_WORD = np.zeros(256, bool)
_IS_WORD[[*range(ord("0"), ord("9") + 1), *range(ord("a"), ord("z") + 1), *range(0x80, 0x100)]] = True
_powers = np.ones((2, 1), U64)  # BASE^i and BASE^-i, made longer when a batch needs it


@dataclass(frozen=True)
class Words:
    """The hashed words of some texts, in order."""

    hashes_W: NDArray[np.uint64]
    offsets_T1: NDArray[np.int64]  # (T + 1,): the words of text t are [offsets[t], offsets[t + 1])

    @property
    def counts_T(self) -> NDArray[np.int64]:
        return np.diff(self.offsets_T1)


@dataclass(frozen=True)
class NGrams:
    """The hashed n-grams of some texts; none reaches from one text into the next."""

    hashes_G: NDArray[np.uint64]
    first_word_G: NDArray[np.int64]  # where it starts among the words of all texts
    offsets_T1: NDArray[np.int64]


def mix(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spreads every input bit over every output bit (the finaliser of MurmurHash3, Appleby 2011)."""
    hashes = (hashes ^ (hashes >> U64(33))) * U64(0xFF51AFD7ED558CCD)
    hashes = (hashes ^ (hashes >> U64(33))) * U64(0xC4CEB9FE1A85EC53)
    return hashes ^ (hashes >> U64(33))


def hash_words(texts: Sequence[str]) -> Words:
    """The words of each text; the polynomial hash of a word's UTF-8 bytes modulo 2^64, mixed."""
    parts = [text.lower().encode() for text in texts]
    data = np.frombuffer(b"\n".join([*parts, b""]), np.uint8)
    first_byte_T = np.cumsum([0, *(len(part) + 1 for part in parts)])
    starts_W, ends_W = word_bounds(data)
    power, inverse = _power_tables(len(data))
    prefix = np.zeros(len(data) + 1, U64)
    np.cumsum((data.astype(U64) + U64(1)) * power[: len(data)], out=prefix[1:])
    hashes_W = mix((prefix[ends_W] - prefix[starts_W]) * inverse[starts_W])
    return Words(hashes_W, np.searchsorted(starts_W, first_byte_T).astype(np.int64))


def join_words(parts: Iterable[Words]) -> Words:
    """The words of batches of texts as those of one: hashing takes 40 times a batch's bytes, keeping the hashes 2 times."""
    each = list(parts)
    counts = [part.counts_T for part in each]
    return Words(
        np.concatenate([np.zeros(0, U64), *(part.hashes_W for part in each)]),
        np.cumsum(np.concatenate([np.zeros(1, np.int64), *counts])),
    )


def ngrams(words: Words, n: int) -> NGrams:
    """Every n-gram of each text, those that come twice included; a text of fewer than n words has none."""
    n_windows = max(0, len(words.hashes_W) - n + 1)
    hashes = np.zeros(n_windows, U64)
    for k in range(n):
        hashes = hashes * U64(NGRAM_BASE) + words.hashes_W[k : k + n_windows]
    inside = np.zeros(n_windows + 1, bool)
    counts_T = np.maximum(words.counts_T - (n - 1), 0)
    starts_T = words.offsets_T1[:-1]
    # +1 where a text's windows begin and -1 after its last one: the running sum is 1 inside.
    steps = np.zeros(n_windows + 1, np.int64)
    np.add.at(steps, np.minimum(starts_T, n_windows), (counts_T > 0).astype(np.int64))
    np.add.at(steps, np.minimum(starts_T + counts_T, n_windows), -(counts_T > 0).astype(np.int64))
    inside = np.cumsum(steps)[:n_windows] > 0
    first_word_G = np.flatnonzero(inside)
    return NGrams(mix(hashes[first_word_G]), first_word_G, np.cumsum(np.concatenate([[0], counts_T])))


def word_bounds(data: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First byte (W,) of each word of lower-cased UTF-8 that ends in a newline, and the byte (W,) after its last."""
    is_word = _IS_WORD[data]
    lead = np.flatnonzero(data >= 0xC2)
    if len(lead) == 0:
        edges = np.flatnonzero(np.diff(is_word, prepend=False, append=False))
        return edges[0::2], edges[1::2]
    lead = lead[data[lead] < 0xF0]
    first, second = data[lead], data[np.minimum(lead + 1, len(data) - 1)]
    # U+0080-00BF, U+2000-2BFF and U+3000-303F hold punctuation, spaces and symbols (ordinals and micro sign go with them).
    two = lead[first == 0xC2]
    three = lead[((first == 0xE2) & (second <= 0xAF)) | ((first == 0xE3) & (second == 0x80))]
    for at, size in ((two, 2), (three, 3)):
        for k in range(size):
            is_word[at + k] = False
    alone = lead[(first >= 0xE3) & (first <= 0xE9) & is_word[lead]]
    begins = np.diff(is_word, prepend=False) & is_word
    begins[alone] = True
    after = alone + 3
    begins[after[is_word[after]]] = True  # the newline after every text keeps this inside
    starts = np.flatnonzero(begins)
    ends = np.flatnonzero(np.diff(is_word.astype(np.int8), append=0) == -1) + 1
    # A word ends where the next begins or where its run of word bytes ends, whichever comes first.
    run_end = ends[np.searchsorted(ends, starts, side="right")] if len(starts) else starts
    return starts, np.minimum(run_end, np.append(starts[1:], len(data)))


def _power_tables(length: int) -> NDArray[np.uint64]:
    global _powers
    if _powers.shape[1] < length:
        size = max(length, 2 * _powers.shape[1])
        steps = np.array([BASE, pow(BASE, -1, 2**64)], U64)[:, None]
        table = np.ones((2, size), U64)
        table[:, 1:] = steps
        _powers = np.multiply.accumulate(table, axis=1)
    return _powers
