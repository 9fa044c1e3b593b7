"""Each published threshold from both sides, the vectorised repetition rules against plain Python, and scripts without spaces."""

from __future__ import annotations

from collections import Counter
from itertools import count, islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sixnd.train.corpus.quality import LIMITS, Scan, c4, judge, measure
from sixnd.train.corpus.repetition import DUPLICATE, TOP, ngram_shares
from sixnd.train.corpus.spec import Rules

LETTERS = "bcdfghjkmn"


def words(n: int, length: int = 5, start: int = 0) -> list[str]:
    """Words that differ from one another, of equal length."""
    digits = (str(number).zfill(length) for number in count(start))
    return ["".join(LETTERS[int(digit)] for digit in number) for number in islice(digits, n)]


def prose(n: int, length: int = 5, start: int = 0) -> str:
    return " ".join(words(n, length, start))


def lines(n: int, per_line: int = 8) -> list[str]:
    return [prose(per_line, start=per_line * number) for number in range(n)]


def broken(rules: Rules, text: str) -> set[str]:
    """The measures of a text that are beyond a limit."""
    scan = Scan(["", text, "alone"])  # a text in the middle, so that offsets matter
    measures = c4(scan)[0] if rules == "c4" else measure(rules, scan)
    return {limit.measure for limit in LIMITS[rules] if limit.drops(measures[limit.measure], limit.threshold)[1]}


def verdict(rules: Rules, text: str) -> str | None:
    return judge(rules, Scan([text]))[0][0]


def separated(phrase: list[str], times: int, n_words: int) -> str:
    """A phrase so many times with another word after each, in a text of so many words of five letters."""
    others = words(n_words, start=1000)
    beginning = [word for time in range(times) for word in (*phrase, others[time])]
    return " ".join((beginning + others[times:])[:n_words])


def repeated_lines(unique: list[str], line: str, times: int, between: str = "\n") -> str:
    """A line so many times, never twice in a row."""
    order = [part for number, other in enumerate(unique) for part in (other, line)[: 2 if number < times else 1]]
    return between.join(order)


GOPHER = [
    ("words", prose(50), prose(49)),
    ("words", prose(100_000), prose(100_001)),
    ("word length", prose(60, 3), prose(59, 3) + " bc"),
    ("word length", prose(60, 10), prose(60, 10) + " " + prose(1, 11)),
    ("hashes", prose(90) + " #" + " #".join(words(10, start=90)), prose(89) + " #" + " #".join(words(11, start=89))),
    ("ellipses", prose(100) + "... " * 10, prose(100) + "... " * 11),
    ("ellipses", prose(100) + "…" * 10, prose(100) + "…" * 5 + "... " * 6),
    (
        "bullet lines",
        "\n".join([*(f"  • {line}" for line in lines(9)), prose(8)]),
        "\n".join(f"- {x}" for x in lines(10)),
    ),
    (
        "ellipsis lines",
        "...\n".join(lines(3)) + "... \n" + "\n".join(lines(7)),
        "…\n".join(lines(4)) + "…\n" + "\n".join(lines(6)),
    ),
    ("letters", prose(80) + " 12345" * 20, prose(79) + " 12345" * 21),
    ("letters", prose(80) + " |" * 20, prose(79) + " |" * 21),
]
REPETITION = [
    ("duplicate lines", repeated_lines(lines(69), "bcd", 31), repeated_lines(lines(68), "bcd", 32)),
    (
        "duplicate paragraphs",
        repeated_lines(["\n".join(lines(3))[:-1] + str(n) for n in range(69)], "bcd", 31, "\n\n"),
        repeated_lines(["\n".join(lines(3))[:-1] + str(n) for n in range(68)], "bcd", 32, "\n \n\n"),
    ),
    ("duplicate line characters", repeated_lines(words(7, 50), "x" * 50, 3), repeated_lines(words(6, 50), "x" * 50, 4)),
    (
        "duplicate paragraph characters",
        repeated_lines(words(7, 50), "x" * 50, 3, "\n\n"),
        repeated_lines(words(6, 50), "x" * 50, 4, "\n\n"),
    ),
    ("top 2-gram", separated(words(2), 10, 100), separated(words(2), 11, 100)),
    ("top 3-gram", separated(words(3), 6, 100), separated(words(3), 7, 100)),
    ("top 4-gram", separated(words(4), 4, 100), separated(words(4), 5, 100)),
    *(
        (f"duplicate {n}-gram", separated(words(n), percent + 1, 100 * n), separated(words(n), percent + 2, 100 * n))
        for n, percent in ((5, 15), (6, 14), (7, 13), (8, 12), (9, 11), (10, 10))
    ),
]
FINEWEB = [
    (
        "ended lines",
        ".\n".join(lines(4)) + "。\n" + "\n".join(lines(21)),
        "!\n".join(lines(3)) + "?\n" + "\n".join(lines(22)),
    ),
    ("duplicate line characters", repeated_lines(words(9, 50), "x" * 50, 2), repeated_lines(words(8, 50), "x" * 50, 2)),
    ("short lines", "\n".join(["b" * 29] * 66 + ["c" * 30] * 34), "\n".join(["b" * 29] * 67 + ["c" * 30] * 33)),
]
C4 = [
    ("sentences", f"{prose(5)}. {prose(5)}! {prose(5)}?", f"{prose(5)}. {prose(5)}!"),
    ("sentences", f"{prose(5)}.\n{prose(5)}.\n{prose(5)}.", f"{prose(5)}.\n{prose(5)}.\n{prose(4)}."),
    ("lorem ipsum", "Lorem, ipsum", "a Lorem Ipsum text"),
    ("curly brace", "(a)", "{a}"),
]
TABLE = [
    *(("gopher", *row) for row in GOPHER),
    *(("gopher-repetition", *row) for row in REPETITION),
    *(("fineweb", *row) for row in FINEWEB),
    *(("c4", *row) for row in C4),
    (
        "gopher-english",
        "stop words",
        f"The {prose(50)} OF",
        f"the {prose(50)} The of-fice".replace("of-fice", "office"),
    ),
]


@pytest.mark.parametrize(("rules", "name", "inside", "outside"), TABLE, ids=[f"{row[0]}-{row[1]}" for row in TABLE])
def test_threshold(rules: Rules, name: str, inside: str, outside: str) -> None:
    assert name not in broken(rules, inside)
    assert name in broken(rules, outside)


def test_every_limit_is_tested() -> None:
    assert {(row[0], row[1]) for row in TABLE} == {
        (rules, limit.measure) for rules in LIMITS for limit in LIMITS[rules]
    }


def test_reason_is_the_first_limit() -> None:
    assert verdict("gopher", "| | |") == "gopher words"
    assert verdict("gopher", prose(79) + " |" * 21) == "gopher letters"
    assert verdict("gopher", prose(79)) is None


def test_c4_keeps_sentences_only() -> None:
    good = [f"{prose(6, start=10 * number)}." for number in range(3)]
    bad = [
        prose(6),
        f"{prose(4)}.",
        f"{prose(6)}...",
        f"Enable JavaScript {prose(6)}.",
        f"Our Privacy Policy {prose(6)}.",
    ]
    text = "\n".join([bad[0], good[0] + "[12]", bad[1], bad[2], good[1], bad[3], bad[4], " " + good[2] + " [edit]"])
    reasons, scan = judge("c4", Scan([text]))
    assert reasons == [None]
    assert scan.texts == ["\n".join(good)]


def japanese(n_lines: int, seed: int = 0) -> str:
    """Lines of random kana and ideographs, a third of the length of English ones, without a space."""
    rng = np.random.default_rng(seed)
    alphabet = [chr(code) for code in (*range(0x3042, 0x3090), *range(0x4E00, 0x4F00))]
    return "\n".join(
        "".join(rng.choice(alphabet, size=12)) + "、" + "".join(rng.choice(alphabet, size=9)) + "。"
        for _ in range(n_lines)
    )


@pytest.mark.parametrize("rules", ["gopher", "gopher-repetition", "fineweb", "c4"])
def test_japanese_is_kept(rules: Rules) -> None:
    assert verdict(rules, japanese(30)) is None


def test_each_kana_counts_as_a_word() -> None:
    text = japanese(3).replace("\n", "").replace("、", "").replace("。", "")
    assert broken("gopher", text[:50]) == set()
    assert broken("gopher", text[:49]) == {"words"}
    assert "duplicate lines" in broken("gopher-repetition", "\n".join([japanese(1)] * 30))
    assert "duplicate 10-gram" in broken("gopher-repetition", japanese(2).replace("\n", "") * 3)


def test_word_length_is_judged_by_script() -> None:
    assert broken("gopher", " ".join(["글"] * 60)) == set()  # a syllable is a character in Korean
    assert broken("gopher", " ".join(["ж"] * 60)) == {"word length"}


def reference(text: str) -> dict[str, float]:
    """The n-gram rules with loops, on a text of lower-case words and spaces."""
    tokens = text.split()
    n_chars = max(sum(map(len, tokens)), 1)
    shares = {}
    for n in TOP:
        grams = Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
        most = max(grams.values(), default=0)
        longest = max((sum(map(len, gram)) for gram, times in grams.items() if times == most), default=0)
        shares[f"top {n}-gram"] = (most * longest if most > 1 else 0) / n_chars
    for n in DUPLICATE:
        seen: set[tuple[str, ...]] = set()
        inside: set[int] = set()
        for i in range(len(tokens) - n + 1):
            gram = tuple(tokens[i : i + n])
            if gram in seen:
                inside.update(range(i, i + n))
            seen.add(gram)
        shares[f"duplicate {n}-gram"] = sum(len(tokens[i]) for i in inside) / n_chars
    return shares


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from(["a", "bb", "ccc", "éé", "日"]), max_size=60), min_size=1, max_size=5))
def test_repetition_equals_reference(texts: list[list[str]]) -> None:
    joined = [" ".join(tokens) for tokens in texts]
    scan = Scan(joined)
    shares = ngram_shares(scan.words, scan.characters.counts_W)
    for t, text in enumerate(joined):
        assert {name: share_T[t] for name, share_T in shares.items()} == reference(text)


def test_repetition_of_texts_that_share_phrases() -> None:
    """What one text repeats of another is no repetition."""
    scan = Scan([prose(200)] * 3)
    assert not any(share_T.any() for share_T in ngram_shares(scan.words, scan.characters.counts_W).values())


def test_same_verdict_alone_and_together() -> None:
    texts = ["", *(text for row in TABLE for text in row[2:] if len(text) < 10_000), japanese(20), "\n\n \t", "…"]
    for rules in LIMITS:
        together, scan = judge(rules, Scan(texts))
        alone = [judge(rules, Scan([text])) for text in texts]
        assert together == [reasons[0] for reasons, _ in alone]
        assert list(scan.texts) == [one.texts[0] for _, one in alone]
    assert judge("gopher", Scan([]))[0] == []
