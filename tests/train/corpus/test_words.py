"""Hashed words and n-grams against plain Python, in every script that the rules tell apart."""

from __future__ import annotations

import random
import re
from itertools import pairwise

import pytest
from sixnd.train.corpus.words import hash_words, join_words, ngrams

WORD = re.compile("[\u3040-\u9fff]|[0-9a-z\u00c0-\u1fff\u2c00-\u2fff\ua000-\U0010ffff]+")
LETTERS = "ab cZ,1.\n\t«—“é漢字かな。、\u3000한𝔘€→"


def made_up(n: int) -> list[str]:
    draw = random.Random(0)
    return ["".join(draw.choices(LETTERS, k=draw.randint(0, 60))) for _ in range(n)]


def test_equal_words_and_no_others_have_equal_hashes() -> None:
    texts = made_up(300)
    words, hash_of = hash_words(texts), dict[str, int]()
    for text, (first, last) in zip(texts, pairwise(words.offsets_T1.tolist()), strict=True):
        found = WORD.findall(text.lower())
        assert last - first == len(found), text
        for word, value in zip(found, words.hashes_W[first:last].tolist(), strict=True):
            assert hash_of.setdefault(word, value) == value
    assert len(set(hash_of.values())) == len(hash_of) > 200


@pytest.mark.parametrize("n", [1, 2, 5, 13])
def test_ngrams_stay_inside_their_text(n: int) -> None:
    texts = made_up(300)
    words, seen, at = hash_words(texts), dict[tuple[str, ...], int](), 0
    grams = ngrams(words, n)
    for i, text in enumerate(texts):
        found = WORD.findall(text.lower())
        expected = [tuple(found[j : j + n]) for j in range(len(found) - n + 1)]
        assert grams.offsets_T1[i + 1] - grams.offsets_T1[i] == len(expected)
        for j, gram in enumerate(expected):
            assert grams.first_word_G[at] == words.offsets_T1[i] + j
            assert seen.setdefault(gram, int(grams.hashes_G[at])) == int(grams.hashes_G[at])
            at += 1
    assert at == len(grams.hashes_G) and len(set(seen.values())) == len(seen)


def test_a_text_has_the_same_hashes_in_any_batch() -> None:
    texts = made_up(50)
    together = hash_words(texts).hashes_W.tolist()
    joined = join_words(hash_words(texts[i : i + 7]) for i in range(0, 50, 7))
    assert joined.hashes_W.tolist() == together
    assert joined.offsets_T1.tolist() == hash_words(texts).offsets_T1.tolist()
    assert together == [value for text in texts for value in hash_words([text]).hashes_W.tolist()]


@pytest.mark.parametrize("texts", [[], [""], ["", "", ""], ["  \n"]])
def test_no_words(texts: list[str]) -> None:
    words = hash_words(texts)
    assert len(words.hashes_W) == 0 and words.offsets_T1.tolist() == [0] * (len(texts) + 1)
    assert len(ngrams(words, 5).hashes_G) == 0
