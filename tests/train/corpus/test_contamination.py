"""Test documents that stand in the training text are found whatever was done to them, and others are not.

Shape suffixes: T test documents, U distinct n-grams.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from sixnd.train.corpus.contamination import BANDS, GramIndex, band
from sixnd.train.corpus.words import hash_words

from tests.conftest import make_documents

N = 13
VOCABULARY = np.array([f"{a}{b}{c}" for a in "bdfgklmn" for b in ("a", "e", "i", "o") for c in map(str, range(500))])
Edit = Callable[[np.random.Generator, list[str]], list[str]]


def prose(rng: np.random.Generator, n: int) -> list[str]:
    """Words whose frequencies fall with their rank as those of a language do (Zipf-Mandelbrot)."""
    cumulative = np.cumsum(1 / (np.arange(len(VOCABULARY)) + 2.7))
    words: list[str] = VOCABULARY[np.searchsorted(cumulative, rng.random(n) * cumulative[-1])].tolist()
    return words


def documents(seed: int, count: int, low: int = 100, high: int = 400) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    return [prose(rng, n) for n in rng.integers(low, high + 1, count)]


def overlaps(test: Sequence[str], train: Sequence[str], batch: int = 100) -> NDArray[np.float64]:
    index = GramIndex.build(hash_words(test), N)
    found_U = np.zeros(len(index.grams_U), bool)
    for start in range(0, len(train), batch):
        found_U[index.found_in(hash_words(train[start : start + batch]))] = True
    return index.overlap(found_U)


def joined(texts: list[list[str]]) -> list[str]:
    return [" ".join(words) for words in texts]


# --- planted contamination -----------------------------------------------------------------------------------------------


def replaced(share: float) -> Edit:
    def edit(rng: np.random.Generator, words: list[str]) -> list[str]:
        at = set(rng.choice(len(words), round(share * len(words)), replace=False).tolist())
        return [f"new{i}" if i in at else word for i, word in enumerate(words)]

    return edit


def truncated(rng: np.random.Generator, words: list[str]) -> list[str]:
    start = int(rng.integers(len(words) // 2))
    return words[start : start + len(words) // 2]


def reset(rng: np.random.Generator, words: list[str]) -> list[str]:
    """Other case, punctuation and white space."""
    marks = rng.choice([",", ".\n\n", " —", ";\t", "!", "", "  "], len(words))
    return [
        (word.upper() if i % 3 else f"“{word.title()}”") + mark
        for i, (word, mark) in enumerate(zip(words, marks, strict=True))
    ]


def all_at_once(rng: np.random.Generator, words: list[str]) -> list[str]:
    return reset(rng, replaced(0.05)(rng, truncated(rng, words)))


@pytest.mark.parametrize("edit", [replaced(0), replaced(0.02), replaced(0.05), truncated, reset, all_at_once])
def test_planted_documents_are_found_and_their_neighbours_are_not(edit: Edit) -> None:
    """Of 400 test documents every other one stands, edited, within a longer training document."""
    rng, test, train = np.random.default_rng(0), documents(1, 400), documents(2, 200, 500, 800)
    for planted, around in zip(test[::2], train, strict=True):
        at = int(rng.integers(len(around)))
        around[at:at] = edit(rng, planted)
    share_T = overlaps(joined(test), joined(train))
    assert (share_T[::2] > 0).mean() >= 0.99
    assert (share_T[1::2] == 0).all()


def test_a_whole_copy_is_dirty_and_one_with_a_twentieth_replaced_is_at_least_partly_so() -> None:
    rng, test = np.random.default_rng(3), documents(4, 200)
    assert (overlaps(joined(test), joined(test)) == 1).all()
    share_T = overlaps(joined(test), joined([replaced(0.05)(rng, words) for words in test]))
    assert {band(share) for share in share_T.tolist()} == {"partly", "dirty"}


def test_nothing_is_found_in_disjoint_text() -> None:
    assert (overlaps(joined(documents(5, 300)), joined(documents(6, 1000))) == 0).all()
    assert overlaps(joined(documents(5, 1, N, N)), joined(documents(6, 1000))) == [0]
    test, train = ([document.text for document in make_documents(300, seed)] for seed in (7, 8))
    assert (overlaps(test, train) == 0).all()


# --- shares and bands ----------------------------------------------------------------------------------------------------


def test_the_share_is_that_of_words_in_a_common_ngram() -> None:
    test = [f"w{i}" for i in range(40)]
    cases = {(0, 13): 13 / 40, (0, 12): 0.0, (5, 30): 25 / 40, (0, 40): 1.0}
    for (start, end), share in cases.items():
        assert overlaps([" ".join(test)], ["x " + " ".join(test[start:end]) + " y"]).tolist() == [share]
    apart = ["a " + " ".join(test[:13]), " ".join(test[20:34])]  # 13 and 14 words of two training documents
    assert overlaps([" ".join(test)], apart).tolist() == [27 / 40]
    assert overlaps([" ".join(test)], [" ".join(test[:7]), " ".join(test[7:14])]).tolist() == [0]


def test_a_common_ngram_counts_in_every_document_that_has_it() -> None:
    a, b, c = (" ".join(f"{letter}{i}" for i in range(20)) for letter in "abc")
    assert overlaps([f"{a} {b}", c, a, f"{b} {a} {a}"], [f"{c[:20]} {a}"]).tolist() == [0.5, 0, 1, 2 / 3]


def test_short_documents_have_a_share_of_zero_and_are_told_from_clean_ones() -> None:
    twelve = " ".join("abcdefghijkl")
    test = [twelve, "", twelve + " m", "one two"]
    assert overlaps(test, test).tolist() == [0, 0, 1, 0]
    assert GramIndex.build(hash_words(test), N).is_measured_T.tolist() == [False, False, True, False]
    assert overlaps(["", "too short"], [twelve * 5]).tolist() == [0, 0]
    assert overlaps([], [twelve * 5]).tolist() == []


def test_bands_meet_where_llama_2_puts_them() -> None:
    shares = (0, 0.19999, 0.2, 0.5, 0.79999, 0.8, 1)
    assert [BANDS.index(band(share)) for share in shares] == [0, 0, 1, 1, 1, 2, 2]


# --- streaming -----------------------------------------------------------------------------------------------------------


def test_batches_and_processes_change_nothing() -> None:
    test = joined(documents(9, 50))
    train = joined(documents(10, 60)) + test[::3] + test[::5]
    index = GramIndex.build(hash_words(test), N)
    whole = index.found_in(hash_words(train))
    assert len(whole) > 1000
    assert (np.diff(whole) > 0).all()
    copy = pickle.loads(pickle.dumps(index.distinct))
    parts = [copy.found_in(hash_words(train[i : i + 7])) for i in range(0, len(train), 7)]
    np.testing.assert_array_equal(np.unique(np.concatenate(parts)), whole)
    np.testing.assert_array_equal(overlaps(test, train, batch=1), overlaps(test, train, batch=1000))


def test_found_ngrams_are_those_that_both_sides_hold() -> None:
    """Against sets of strings, at a small n where much is found by chance and much is not."""
    test, train = joined(documents(11, 40)), joined(documents(12, 40))
    index = GramIndex.build(hash_words(test), 2)

    def pairs(text: str) -> list[tuple[str, str]]:
        return list(pairwise(text.split()))

    common = {pair for text in train for pair in pairs(text)}
    found_U = np.zeros(len(index.grams_U), bool)
    found_U[index.found_in(hash_words(train))] = True
    expected = [pair in common for text in test for pair in pairs(text)]
    assert 100 < sum(expected) < len(expected) - 100
    assert found_U[index.number_G].tolist() == expected


def test_memory_grows_with_the_test_documents_alone() -> None:
    index = GramIndex.build(hash_words(joined(documents(13, 300))), N)
    size = len(pickle.dumps(index))
    index.found_in(hash_words(joined(documents(14, 2000))))
    assert len(pickle.dumps(index)) == size
    assert size < 29 * index.offsets_T1[-1]
    assert len(pickle.dumps(index.distinct)) < 13 * index.offsets_T1[-1]


def test_the_filter_lets_few_other_ngrams_pass() -> None:
    for count in (1, 30, 300):
        distinct = GramIndex.build(hash_words(joined(documents(15, count))), N).distinct
        bits = np.unpackbits(distinct.filter_F)
        assert 0.9 * len(distinct.hashes_U) < bits.sum() <= len(distinct.hashes_U)
        assert bits.mean() <= 1 / 16
