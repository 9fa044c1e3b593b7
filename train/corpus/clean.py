"""Cleaning, one document at a time: Unicode normalisation, rules of quality, toxicity.

A dropped document has a reason, "<step>: <rule>", with <step> of STEPS and the rules
- "unicode: empty": nothing but white space is left;
- "quality: <rules> <measure>": the limit of quality.py that it breaks first;
- "toxicity: word list": too large a share of its words stands in the list.

Shape suffixes: T texts, W words, G n-grams.
"""

from __future__ import annotations

import hashlib
import importlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .quality import Scan, judge
from .repetition import covered, per_text
from .spec import Cleaning, CorpusError, Rules
from .words import Words, hash_words, ngrams

STEPS = ("unicode", "quality", "toxicity")
WORD_LIST = Path(__file__).with_name("toxic_words.txt")

Form = Literal["NFC", "NFKC", "ftfy", False]
_LINE_END = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ufeff]+")
_UNTIDY = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff]")


@dataclass(frozen=True)
class Cleaned:
    """What cleaning left of some texts; the quality rules "c4" edit texts, which shows in `sizes` alone."""

    texts: list[str | None]  # None where dropped
    dropped_by: list[str | None]
    changed: int  # texts that Unicode normalisation altered
    sizes: tuple[NDArray[np.int64], ...]  # a step of STEPS each, (T,): bytes of UTF-8 after it, 0 where dropped


@dataclass(frozen=True, eq=False)
class WordList:
    """Words and phrases whose share in a text is counted, in any case of letters."""

    hashes: Mapping[int, NDArray[np.uint64]]  # of the entries of n words, by n
    sha256: str  # of the file

    @classmethod
    def read(cls, path: Path, form: Form) -> WordList:
        """One entry a line; what follows a # is a comment. Entries are normalised as the texts are.

        Raises:
            CorpusError: no such file, not UTF-8, or an entry without a word, or none at all.
        """
        what = f"clean.toxicity.words: {path}"
        try:
            contents = path.read_bytes()
            lines = [line.partition("#")[0].strip() for line in contents.decode("utf-8-sig").splitlines()]
        except OSError as error:
            raise CorpusError(f"{what}: {error.strerror}; give a file of UTF-8 text, one word a line") from None
        except UnicodeDecodeError as error:
            raise CorpusError(f"{what}: not UTF-8 at byte {error.start}; give a text file, one word a line") from None
        words = hash_words([normalise(line, form) for line in lines])
        for number, (line, n) in enumerate(zip(lines, words.counts_T, strict=True), 1):
            if line and n == 0:
                raise CorpusError(
                    f"{what}: line {number}, {line!r}, has no letter or digit; one word a line is allowed"
                )
        if len(words.hashes_W) == 0:
            raise CorpusError(f"{what}: no word in it; give one a line")
        return cls(_by_length(words), hashlib.sha256(contents).hexdigest())

    def share(self, words: Words) -> NDArray[np.float64]:
        """The share (T,) of each text's words that stand in the list, alone or in a phrase."""
        listed_W = np.zeros(len(words.hashes_W), bool)
        for n, hashes in self.hashes.items():
            grams = ngrams(words, n)
            listed_W |= covered(grams.first_word_G[np.isin(grams.hashes_G, hashes)], n, len(listed_W))
        return per_text(listed_W.astype(np.int64), words.offsets_T1) / np.maximum(words.counts_T, 1)


def _by_length(entries: Words) -> dict[int, NDArray[np.uint64]]:
    by_length = {}
    for n in sorted(set(entries.counts_T.tolist()) - {0}):
        grams = ngrams(entries, n)
        whole_G = np.repeat(entries.counts_T, np.diff(grams.offsets_T1)) == n  # not a part of a longer entry
        by_length[n] = np.unique(grams.hashes_G[whole_G])
    return by_length


@dataclass(frozen=True, eq=False)
class Cleaner:
    """The steps on batches of texts; can be pickled. A text comes out the same in any batch.

    Made once, by `Cleaner.of`, so that what is missing is found before the first text.
    """

    form: Form
    quality: tuple[Rules, ...]
    toxicity: float | None  # share of words
    words: WordList | None

    @classmethod
    def of(cls, cleaning: Cleaning, quality: tuple[Rules, ...]) -> Cleaner:
        """The steps that `cleaning` asks for, with a source's own quality rules.

        Raises:
            CorpusError: the word list cannot be used, or ftfy is asked for and not installed.
        """
        if cleaning.unicode == "ftfy":
            try:
                importlib.import_module("ftfy")
            except ImportError:
                raise CorpusError(
                    'clean.unicode: "ftfy" is not installed; pip install "sixnd[ftfy]", or ask for "NFC" or "NFKC"'
                ) from None
        if cleaning.toxicity is False:
            return cls(cleaning.unicode, quality, None, None)
        path = WORD_LIST if cleaning.toxicity.words is None else Path(cleaning.toxicity.words)
        return cls(cleaning.unicode, quality, cleaning.toxicity.threshold, WordList.read(path, cleaning.unicode))

    def __call__(self, texts: Sequence[str]) -> Cleaned:
        """Cleans some texts, in memory of 40 to 75 times their bytes."""
        left = [normalise(text, self.form) for text in texts]
        changed = sum(text != before for text, before in zip(left, texts, strict=True))
        dropped_by = [None if text.strip() else "unicode: empty" for text in left]
        sizes = [_sizes(left, dropped_by)]

        scan = Scan(_kept(left, dropped_by))
        for rules in self.quality:
            reasons, scan = judge(rules, scan)
            dropped_by = _first(dropped_by, reasons, "quality")
        sizes.append(_sizes(scan.texts, dropped_by))

        if self.words is not None and self.toxicity is not None:
            is_toxic_T = self.words.share(scan.words) > self.toxicity
            dropped_by = _first(dropped_by, ["word list" if toxic else None for toxic in is_toxic_T], "toxicity")
        sizes.append(_sizes(scan.texts, dropped_by))

        kept = [text if reason is None else None for text, reason in zip(scan.texts, dropped_by, strict=True)]
        return Cleaned(kept, dropped_by, changed, tuple(sizes))


def normalise(text: str, form: Form) -> str:
    """Text in one form of Unicode (UAX 15), with LF ending every line and no other control character but the tab.

    Line ends are CRLF, CR, VT, FF, NEL and U+2028 and 2029; control characters are those of category Cc, and U+FEFF. ftfy
    repairs mojibake first, which it recognises by some of these; False leaves the text as it is.
    """
    if form is False:
        return text
    if form == "ftfy":
        text = importlib.import_module("ftfy").fix_text(text)
    if _UNTIDY.search(text):
        text = _CONTROL.sub("", _LINE_END.sub("\n", text))
    return unicodedata.normalize("NFKC" if form == "NFKC" else "NFC", text)


def _first(before: list[str | None], reasons: Sequence[str | None], step: str) -> list[str | None]:
    """The reason that a text was first dropped for."""
    return [
        earlier or (f"{step}: {reason}" if reason else None) for earlier, reason in zip(before, reasons, strict=True)
    ]


def _kept(texts: Sequence[str], dropped_by: list[str | None]) -> list[str]:
    """The texts that are left, and nothing in place of the others."""
    return [text if reason is None else "" for text, reason in zip(texts, dropped_by, strict=True)]


def _sizes(texts: Sequence[str], dropped_by: list[str | None]) -> NDArray[np.int64]:
    return np.array([len(text.encode()) for text in _kept(texts, dropped_by)], np.int64)
