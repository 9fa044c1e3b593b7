"""What every kind of source gives: documents, and what is known of them before the first is read."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..spec import CorpusError

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Document:
    """One text, whole: the unit that is split, cleaned, deduplicated and evaluated."""

    source: str
    id: str
    text: str


@dataclass(frozen=True)
class Source:
    """Where documents come from: what is read, under which licence, and a way to walk its documents.

    `sha256` is over what is read (or, of a hub dataset, over what names it: path, configuration, split, commit, shuffle),
    so that it is known before a corpus is built. `documents` walks them in one fixed order, from the start at every
    call, holding one at a time.
    """

    name: str
    version: str
    licence: str
    sha256: str
    documents: Callable[[], Iterable[Document]]


def bounded(document: Document, max_document_bytes: int) -> Document:
    """The document itself, halves of surrogate pairs (JSON escapes can spell them) made U+FFFD.

    Raises:
        CorpusError: it is longer than `max_document_bytes` in UTF-8.
    """
    try:
        size = len(document.text.encode())
    except UnicodeEncodeError:
        return bounded(Document(document.source, document.id, _SURROGATE.sub("�", document.text)), max_document_bytes)
    if size > max_document_bytes:
        raise too_large(document.source, document.id, f"{size} bytes", max_document_bytes)
    return document


def too_large(source: str, place: str, size: str, max_document_bytes: int) -> CorpusError:
    return CorpusError(
        f"source {source}: {place}: a document of {size}, above max_document_bytes = {max_document_bytes}; "
        "raise it, or cut the text into documents"
    )


def digest_of_files(files: Iterable[tuple[str, Path]]) -> str:
    """sha256 over (name, size, sha256 of the bytes) of every file, each read as a stream."""
    digest = hashlib.sha256()
    for name, path in files:
        with path.open("rb") as stream:
            contents = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"{name}\0{path.stat().st_size}\0{contents}\0".encode())
    return digest.hexdigest()


def one_line(error: BaseException, characters: int = 300) -> str:
    """A library's message for one of our own: without line breaks, and cut where it goes on for long."""
    message = " ".join(str(error).split()) or type(error).__name__
    return message if len(message) <= characters else message[:characters] + " ..."
