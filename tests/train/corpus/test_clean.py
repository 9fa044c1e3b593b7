"""The steps of cleaning: their order, their reasons, and what they cannot start without."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from sixnd.train.corpus.clean import STEPS, WORD_LIST, Cleaner, WordList, normalise
from sixnd.train.corpus.spec import Cleaning, CorpusError, Toxicity

LETTERS = "bcdfghjkmn"


def prose(n: int, start: int = 0) -> str:
    """Words that differ from one another and stand in no list."""
    return " ".join("".join(LETTERS[int(digit)] for digit in f"{number:05}") for number in range(start, start + n))


def toxicity_alone(words: Path | None = None, threshold: float = 0.01) -> Cleaner:
    toxicity = Toxicity(threshold=threshold, words=None if words is None else str(words))
    return Cleaner.of(Cleaning(toxicity=toxicity), ())


def write(path: Path, *entries: str) -> Path:
    path.write_text("\n".join(entries), encoding="utf-8")
    return path


# --- Unicode -----------------------------------------------------------------------------------------------------------


def test_forms_of_unicode() -> None:
    text = "cafe\u0301 \ufb01ne \uff11\u00bd"
    assert normalise(text, "NFC") == "caf\u00e9 \ufb01ne \uff11\u00bd"
    assert normalise(text, "NFKC") == "caf\u00e9 fine 11\u20442"
    assert normalise(text, False) == text


def test_control_characters_and_line_ends() -> None:
    assert normalise("\ufeffa\r\nb\rc\x0cd\x85e\u2028f\tg\x00h\x1b\x7fi\x9c\n", "NFC") == "a\nb\nc\nd\ne\nf\tghi\n"
    assert normalise("e\x00\u0301", "NFC") == "\u00e9"
    assert normalise("a\r\n\x00", False) == "a\r\n\x00"


def test_changed_counts_what_normalisation_altered() -> None:
    cleaned = Cleaner.of(Cleaning(), ())(["plain", "caf\u00e9", "cafe\u0301", "a\r\nb"])
    assert cleaned.changed == 2
    assert cleaned.texts == ["plain", "caf\u00e9", "caf\u00e9", "a\nb"]


def test_empty_is_dropped_with_and_without_normalisation() -> None:
    for form in ("NFC", False):
        cleaned = Cleaner.of(Cleaning(unicode=form), ("gopher",))(["", " \n\t", "\u3000"])
        assert cleaned.dropped_by == ["unicode: empty"] * 3
    assert Cleaner.of(Cleaning(), ())(["\x00\x00"]).dropped_by == ["unicode: empty"]


def test_ftfy_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ftfy", None)
    with pytest.raises(
        CorpusError, match=r'^clean\.unicode: "ftfy" is not installed; pip install "sixnd\[ftfy\]"'
    ) as caught:
        Cleaner.of(Cleaning(unicode="ftfy"), ())
    assert "\n" not in str(caught.value)


def test_ftfy_repairs_before_control_characters_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ftfy takes for mojibake holds C1 controls."""
    stub = SimpleNamespace(fix_text=lambda text: text.replace("\u00e2\x80\x99", "\u2019"))
    monkeypatch.setitem(sys.modules, "ftfy", stub)
    cleaned = Cleaner.of(Cleaning(unicode="ftfy"), ())(["it\u00e2\x80\x99s\x07"])
    assert cleaned.texts == ["it\u2019s"]


def test_ftfy_itself() -> None:
    pytest.importorskip("ftfy")
    assert normalise("schÃ¶n\x00", "ftfy") == "schön"


# --- toxicity ----------------------------------------------------------------------------------------------------------


def test_density_decides_and_not_presence() -> None:
    texts = [f"{prose(99)} Shit", f"{prose(98)} shit, SHIT", f"{prose(999)} fuck", "shit"]
    assert toxicity_alone()(texts).dropped_by == [None, "toxicity: word list", None, "toxicity: word list"]


def test_part_of_a_word_does_not_count() -> None:
    assert toxicity_alone()(["classic assassins passed the cockpit of Scunthorpe"]).dropped_by == [None]


def test_replaced_word_list(tmp_path: Path) -> None:
    path = write(tmp_path / "words.txt", "# ours", "", "Blorp  # a comment", "big bad wolf", "ばか", "cafe\u0301")
    clean = toxicity_alone(path, threshold=0.5)
    texts = [
        "blorp here",
        "blorp and here",
        "BIG bad wolf is here",
        "big bad dog is here",
        "ばか",
        "かば",
        "caf\u00e9",
        "shit",
    ]
    toxic = [reason is not None for reason in clean(texts).dropped_by]
    assert toxic == [False, False, True, False, True, False, True, False]


def test_words_of_two_entries_count_once(tmp_path: Path) -> None:
    path = write(tmp_path / "words.txt", "bad", "bad wolf", "big bad")
    cleaned = toxicity_alone(path, threshold=0.6)(["big bad wolf and dog", "bad bad bad and dog", "big bad wolf dog"])
    assert [reason is not None for reason in cleaned.dropped_by] == [False, False, True]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (None, "No such file or directory; give a file of UTF-8 text, one word a line"),
        (b"", "no word in it; give one a line"),
        (b"# only\n\n# comments\n", "no word in it; give one a line"),
        (b"word\n\xff\xfe\n", "not UTF-8 at byte 5; give a text file, one word a line"),
        (b"word\n@@@\n", "line 2, '@@@', has no letter or digit; one word a line is allowed"),
    ],
)
def test_word_list_that_cannot_be_used(tmp_path: Path, contents: bytes | None, message: str) -> None:
    path = tmp_path / "words.txt"
    if contents is not None:
        path.write_bytes(contents)
    with pytest.raises(CorpusError) as caught:
        toxicity_alone(path)
    assert str(caught.value) == f"clean.toxicity.words: {path}: {message}"


def test_word_list_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="Is a directory; give a file"):
        toxicity_alone(tmp_path)


def test_own_list_is_short_and_of_words() -> None:
    listed = WordList.read(WORD_LIST, "NFC")
    assert 40 <= sum(map(len, listed.hashes.values())) <= 80
    assert len(listed.sha256) == 64


# --- all steps ---------------------------------------------------------------------------------------------------------


def texts_of_all_kinds() -> list[str]:
    return [
        prose(80),
        "",
        "too short, shit",
        prose(80, start=500) + " shit fuck",
        " ".join([prose(10)] * 8),
        "cafe\u0301 " + prose(60),
        "ばかか" * 40,
        "\n".join(f"{prose(8, start=8 * number)}." for number in range(10)) + "\nno end",
    ]


def test_first_step_that_drops_gives_the_reason() -> None:
    cleaned = Cleaner.of(Cleaning(), Cleaning().quality)(texts_of_all_kinds())
    assert cleaned.dropped_by == [
        None,
        "unicode: empty",
        "quality: gopher words",
        "toxicity: word list",
        "quality: gopher-repetition top 3-gram",
        None,
        "quality: gopher-repetition top 2-gram",
        None,
    ]
    assert [text is None for text in cleaned.texts] == [reason is not None for reason in cleaned.dropped_by]
    assert cleaned.changed == 1


def test_steps_can_be_left_out() -> None:
    cleaned = Cleaner.of(Cleaning(unicode=False, toxicity=False), ())(texts_of_all_kinds())
    assert cleaned.texts == [text or None for text in texts_of_all_kinds()]


def test_sizes_follow_the_steps_and_the_lines_that_c4_removes() -> None:
    texts = texts_of_all_kinds()
    cleaned = Cleaner.of(Cleaning(), ("gopher", "c4"))(texts)
    unicode, quality, toxicity = cleaned.sizes
    assert len(cleaned.sizes) == len(STEPS)
    assert unicode.tolist() == [len(normalise(text, "NFC").encode()) for text in texts]
    assert (quality > 0).tolist() == [False] * 7 + [True]
    assert quality[-1] == unicode[-1] - len("\nno end")
    assert toxicity.tolist() == [len((text or "").encode()) for text in cleaned.texts]


@pytest.mark.parametrize("quality", [("gopher", "gopher-repetition"), ("c4", "fineweb", "gopher-english"), ()])
def test_alone_and_together(quality: tuple[str, ...]) -> None:
    cleaner = Cleaner.of(Cleaning(), Cleaning.model_validate({"quality": quality}).quality)
    texts = texts_of_all_kinds()
    together = pickle.loads(pickle.dumps(cleaner))(texts)
    alone = [cleaner([text]) for text in texts]
    assert together.texts == [one.texts[0] for one in alone]
    assert together.dropped_by == [one.dropped_by[0] for one in alone]
    assert together.changed == sum(one.changed for one in alone)
    assert cleaner([]).texts == []
