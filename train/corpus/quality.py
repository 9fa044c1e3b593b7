"""Rules that tell prose from menus, tables and debris by a document's own statistics, with their published thresholds.

Where the papers leave a choice open:
- A word is a word of words.py: a run of letters and digits, a kana or an ideograph by itself. The share of words with a
  letter also counts as words what stands between white space without letter or digit, so that tables count as what they are.
- Shares of characters in n-grams are of the characters of words alone, without the space and punctuation between them.
- Of equal lines, paragraphs or n-grams the first is no duplicate. Lines are stripped, and blank ones are no lines.
- Word lengths and short lines are not judged where most characters are above U+07FF in Unicode: those scripts write no
  spaces, or syllables as one character. Thai, Lao, Khmer and Burmese have too few words by our count all the same.
- gopher-english is about English, and so are the phrases that c4 looks for.

Shape suffixes: T texts, W words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import ge, gt, le, lt
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .repetition import ngram_shares, per_text
from .spec import Rules
from .words import Words, hash_words, word_bounds


class Limit(NamedTuple):
    """Drops a document where `drops(measure, threshold)`; what was not measured (nan) drops none."""

    measure: str
    drops: Callable[[NDArray[np.float64], float], NDArray[np.bool_]]
    threshold: float


# A document is dropped by the first limit that it breaks; "<rules> <measure>" is the reason on record.
LIMITS: Mapping[Rules, tuple[Limit, ...]] = {
    # Rae et al. 2021 (Gopher, arXiv 2112.11446), appendix A.1.1, quality filtering.
    "gopher": (
        Limit("words", lt, 50),
        Limit("words", gt, 100_000),
        Limit("word length", lt, 3),  # the mean, in characters
        Limit("word length", gt, 10),
        Limit("hashes", gt, 0.1),  # per word
        Limit("ellipses", gt, 0.1),  # per word
        Limit("bullet lines", gt, 0.9),  # share of lines that start with one
        Limit("ellipsis lines", gt, 0.3),  # share of lines that end in one
        Limit("letters", lt, 0.8),  # share of words with a letter
    ),
    # The same: at least two of eight English words.
    "gopher-english": (Limit("stop words", lt, 2),),
    # The same, repetition removal, table A1: shares of lines, of paragraphs and of their characters.
    "gopher-repetition": (
        Limit("duplicate lines", gt, 0.30),
        Limit("duplicate paragraphs", gt, 0.30),
        Limit("duplicate line characters", gt, 0.20),
        Limit("duplicate paragraph characters", gt, 0.20),
        Limit("top 2-gram", gt, 0.20),
        Limit("top 3-gram", gt, 0.18),
        Limit("top 4-gram", gt, 0.16),
        Limit("duplicate 5-gram", gt, 0.15),
        Limit("duplicate 6-gram", gt, 0.14),
        Limit("duplicate 7-gram", gt, 0.13),
        Limit("duplicate 8-gram", gt, 0.12),
        Limit("duplicate 9-gram", gt, 0.11),
        Limit("duplicate 10-gram", gt, 0.10),
    ),
    # Penedo et al. 2024 (FineWeb, arXiv 2406.17557), section 3.6.
    "fineweb": (
        Limit("ended lines", le, 0.12),  # share of lines that end in punctuation
        Limit("duplicate line characters", ge, 0.1),
        Limit("short lines", ge, 0.67),  # of fewer than 30 characters
    ),
    # Raffel et al. 2020 (T5, arXiv 1910.10683), section 2.2, with C4_LINE_WORDS. Some quote 5 sentences and 3 words; the
    # authors' code has 3 and 5.
    "c4": (
        Limit("lorem ipsum", gt, 0),
        Limit("curly brace", gt, 0),
        Limit("sentences", lt, 3),
    ),
}
C4_LINE_WORDS = 5  # a line of fewer is removed
SHORT_LINE = 30
STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")

BULLETS = ("•", "‣", "⁃", "◦", "●", "○", "■", "□", "▪", "▫", "▶", "·", "・", "*", "-", "–")
ELLIPSES = ("...", "…")
ENDS = tuple(".!?…\"'”’»。．｡\uff01\uff1f」』؟۔।։።")  # of sentences and quotations, in any script
POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
_SENTENCE_END = re.compile("[.!?…؟۔।։።]+[\"'”’»)]*(?=\\s|$)|[。．｡\uff01\uff1f]+")
_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_BETWEEN_PARAGRAPHS = re.compile(r"\n\s*\n")
_IDEOGRAPH = re.compile("[\u3040-\u30ff\u3400-\u9fff]")

Measures = dict[str, NDArray[np.float64]]  # (T,) each


@dataclass(frozen=True)
class Scan:
    """Some texts and what the rules count in them, each found once and when it is first asked for."""

    texts: Sequence[str]

    @cached_property
    def words(self) -> Words:
        return hash_words(self.texts)

    @cached_property
    def characters(self) -> Characters:
        return Characters.of(self.texts, self.words)

    @cached_property
    def lines(self) -> list[list[str]]:
        return [_stripped(text.split("\n")) for text in self.texts]

    @property
    def paragraphs(self) -> list[list[str]]:
        return [_stripped(_BETWEEN_PARAGRAPHS.split(text)) for text in self.texts]


@dataclass(frozen=True)
class Characters:
    """What the words of some texts are written in."""

    counts_W: NDArray[np.int64]
    has_letter_W: NDArray[np.int64]  # 1 or 0
    symbols_T: NDArray[np.int64]  # pieces between white space without letter or digit
    spaced_T: NDArray[np.bool_]  # whether most characters are of scripts that write spaces, and a character a letter

    @classmethod
    def of(cls, texts: Sequence[str], words: Words) -> Characters:
        parts = [text.lower().encode() for text in texts]  # as hash_words has them: the same words in the same order
        data = np.frombuffer(b"\n".join([*parts, b""]), np.uint8)
        first_byte_T1 = np.cumsum([0, *(len(part) + 1 for part in parts)])
        starts_W, ends_W = word_bounds(data)
        counts_W = _between(starts_W, ends_W, (data & 0xC0) != 0x80)  # every byte that does not go on a character
        wide_T = _between(first_byte_T1[:-1], first_byte_T1[1:], data >= 0xE0)  # three bytes of UTF-8 and more
        return cls(
            counts_W=counts_W,
            has_letter_W=(_between(starts_W, ends_W, data > ord("9")) > 0).astype(np.int64),
            symbols_T=_symbols(data, starts_W, first_byte_T1),
            spaced_T=2 * wide_T <= per_text(counts_W, words.offsets_T1),
        )


def judge(rules: Rules, scan: Scan) -> tuple[list[str | None], Scan]:
    """Why each text is dropped, "<rules> <measure>" or None, and the texts as the rules leave them: only c4 edits any.

    A text's verdict depends on that text alone, whichever others it comes with.
    """
    if rules == "c4":
        measures, scan = c4(scan)
    else:
        measures = measure(rules, scan)
    reasons: list[str | None] = [None] * len(scan.texts)
    for limit in LIMITS[rules]:
        for t in np.flatnonzero(limit.drops(measures[limit.measure], limit.threshold)):
            reasons[t] = reasons[t] or f"{rules} {limit.measure}"
    return reasons, scan


def measure(rules: Literal["gopher", "gopher-english", "gopher-repetition", "fineweb"], scan: Scan) -> Measures:
    """What the limits of some rules are held against, by name."""
    match rules:
        case "gopher":
            return gopher(scan)
        case "gopher-english":
            return gopher_english(scan)
        case "gopher-repetition":
            return gopher_repetition(scan)
        case "fineweb":
            return fineweb(scan)


def gopher(scan: Scan) -> Measures:
    words_T, characters = scan.words.counts_T, scan.characters
    chars_T = per_text(characters.counts_W, scan.words.offsets_T1)
    with_letter_T = per_text(characters.has_letter_W, scan.words.offsets_T1)
    hashes_T = np.array([text.count("#") for text in scan.texts])
    ellipses_T = np.array([sum(map(text.count, ELLIPSES)) for text in scan.texts])
    return {
        "words": words_T.astype(np.float64),
        "word length": np.where(characters.spaced_T & (words_T > 0), _share(chars_T, words_T), np.nan),
        "hashes": _share(hashes_T, words_T),
        "ellipses": _share(ellipses_T, words_T),
        "bullet lines": _share_of_lines(scan, lambda line: line.startswith(BULLETS)),
        "ellipsis lines": _share_of_lines(scan, lambda line: line.endswith(ELLIPSES)),
        "letters": _share(with_letter_T, words_T + characters.symbols_T),
    }


def gopher_english(scan: Scan) -> Measures:
    found_T = np.zeros(len(scan.texts))
    for stop_word in hash_words(STOP_WORDS).hashes_W:
        found_T += per_text((scan.words.hashes_W == stop_word).astype(np.int64), scan.words.offsets_T1) > 0
    return {"stop words": found_T}


def gopher_repetition(scan: Scan) -> Measures:
    lines_2T, paragraphs_2T = _duplicates(scan.lines), _duplicates(scan.paragraphs)
    return {
        "duplicate lines": lines_2T[0],
        "duplicate paragraphs": paragraphs_2T[0],
        "duplicate line characters": lines_2T[1],
        "duplicate paragraph characters": paragraphs_2T[1],
        **ngram_shares(scan.words, scan.characters.counts_W),
    }


def fineweb(scan: Scan) -> Measures:
    short_T = _share_of_lines(scan, lambda line: len(line) < SHORT_LINE)
    return {
        "ended lines": _share_of_lines(scan, lambda line: line.endswith(ENDS)),
        "duplicate line characters": _duplicates(scan.lines)[1],
        "short lines": np.where(scan.characters.spaced_T, short_T, np.nan),
    }


def c4(scan: Scan) -> tuple[Measures, Scan]:
    """Also the texts of the lines that are kept, without the marks of citations.

    Raffel et al. 2020, section 2.2, but for what other steps do here: bad words, language and repeated spans.
    """
    kept = [_c4_lines(lines) for lines in scan.lines]
    lower = [text.lower() for text in scan.texts]
    measures = {
        "lorem ipsum": np.array(["lorem ipsum" in text for text in lower], np.float64),
        "curly brace": np.array(["{" in text for text in lower], np.float64),
        "sentences": np.array([sum(map(_sentences, lines)) for lines in kept], np.float64),
    }
    return measures, Scan(["\n".join(lines) for lines in kept])


def _c4_lines(lines: list[str]) -> list[str]:
    lines = [_CITATION.sub("", line).strip() for line in lines]
    return [line for line in lines if line.endswith(ENDS) and not line.endswith(ELLIPSES) and _is_c4_line(line)]


def _is_c4_line(line: str) -> bool:
    lower = line.lower()
    n_words = len(line.split()) + len(_IDEOGRAPH.findall(line))
    return n_words >= C4_LINE_WORDS and "javascript" not in lower and not any(policy in lower for policy in POLICIES)


def _sentences(line: str) -> int:
    return max(1, len(_SENTENCE_END.findall(line)))


def _stripped(pieces: list[str]) -> list[str]:
    return [stripped for piece in pieces if (stripped := piece.strip())]


def _share(part_T: NDArray[np.int64], whole_T: NDArray[np.int64]) -> NDArray[np.float64]:
    return part_T / np.maximum(whole_T, 1)


def _share_of_lines(scan: Scan, holds: Callable[[str], bool]) -> NDArray[np.float64]:
    return np.array([sum(map(holds, lines)) / max(len(lines), 1) for lines in scan.lines])


def _duplicates(pieces_of_texts: list[list[str]]) -> NDArray[np.float64]:
    """Shares (2, T) of the pieces of each text that came before in it: by number, and by characters."""
    shares = np.zeros((2, len(pieces_of_texts)))
    for t, pieces in enumerate(pieces_of_texts):
        different = set(pieces)
        if len(different) < len(pieces):
            n_chars = sum(map(len, pieces))
            shares[:, t] = (len(pieces) - len(different)) / len(pieces), (n_chars - sum(map(len, different))) / n_chars
    return shares


def _between(starts: NDArray[np.int64], ends: NDArray[np.int64], is_counted: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How many of the bytes are counted in each [start, end)."""
    before = np.zeros(len(is_counted) + 1, np.int32)
    np.cumsum(is_counted, out=before[1:])
    return (before[ends] - before[starts]).astype(np.int64)


def _symbols(
    data: NDArray[np.uint8], starts_W: NDArray[np.int64], first_byte_T1: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Pieces (T,) between white space in which no word begins."""
    edges = np.flatnonzero(np.diff(data > ord(" "), prepend=False, append=False))
    starts, ends = edges[0::2], edges[1::2]
    begins_word = np.zeros(len(data), bool)
    begins_word[starts_W] = True
    alone = starts[_between(starts, ends, begins_word) == 0]
    return np.diff(np.searchsorted(alone, first_byte_T1)).astype(np.int64)
