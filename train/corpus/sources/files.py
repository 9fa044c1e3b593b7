"""Local files: text with a document each, tables with a document a row."""

from __future__ import annotations

import csv
import glob
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..spec import CorpusError, FilesSource
from .document import Document, Source, bounded, digest_of_files, one_line, too_large
from .streams import TooLong, decoded, pieces

ROW_FACTOR = 4  # a row may be this much longer than a document: JSON escapes, and the other columns
PATIENCE = 1000  # rows of a .jsonl that may come without the text column before the first that has it
ENDINGS = ".txt, .md, .jsonl and .csv, each with .gz or .zst, and .parquet"
PARQUET_ROWS = 64  # read at once


@dataclass(frozen=True)
class _File:
    """One file of a source, and what reading it needs."""

    spec: FilesSource
    name: str  # below the folder that all files of the source share
    path: Path
    max_document_bytes: int

    @property
    def place(self) -> str:
        return f"source {self.spec.label}: {self.name}"

    def document(self, text: str, row: int | None = None) -> Document:
        name = self.name if row is None else f"{self.name}#{row}"
        return bounded(Document(self.spec.label, name, text), self.max_document_bytes)

    def row(self, value: object, row: int) -> Document:
        """The document of a table's cell; a null is an empty text, which the build drops and counts."""
        if value is not None and not isinstance(value, str):
            kind = type(value).__name__
            raise CorpusError(f"{self.place}: row {row}: {self.spec.text_column!r} holds a {kind}, not a string")
        return self.document(value or "", row)

    def refuse_column(self, columns: Iterable[str]) -> CorpusError:
        there_are = ", ".join(columns) or "none"
        return CorpusError(f"{self.place}: no column {self.spec.text_column!r}; set text_column to one of: {there_are}")

    def refuse_length(self, place: str, limit: int) -> CorpusError:
        return too_large(self.spec.label, place, f"more than {limit} bytes", self.max_document_bytes)


def read_files(spec: FilesSource, max_document_bytes: int) -> Source:
    """The files that `spec.paths` match, in the order of their names.

    Raises:
        CorpusError: a path matches nothing, a file has an unknown ending or cannot be read, or all are empty. While
            walking the documents: a file is broken, has no such column, or holds a document above the limit.
    """
    files = [_File(spec, name, path, max_document_bytes) for name, path in _find(spec).items()]
    readers = [(_reader(file), file) for file in files]
    try:
        sha256 = digest_of_files((file.name, file.path) for file in files)
        if not any(file.path.stat().st_size for file in files):
            raise CorpusError(f"source {spec.label}: empty: {len(files)} files matched paths, none with anything in it")
    except OSError as error:
        raise CorpusError(f"source {spec.label}: cannot be read: {one_line(error)}") from None

    def documents() -> Iterator[Document]:
        for read, file in readers:
            yield from read(file)

    return Source(
        name=spec.label, version=f"{len(files)} files", licence=spec.licence, sha256=sha256, documents=documents
    )


def _find(spec: FilesSource) -> dict[str, Path]:
    found = set[Path]()
    for pattern in spec.paths:
        path = Path(pattern).expanduser()
        matches = [path] if path.is_file() else map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207 - may be absolute
        files = {Path(os.path.abspath(match)) for match in matches if match.is_file()}  # noqa: PTH100 - links stay
        if not files:
            raise CorpusError(f"source {spec.label}: paths: {pattern!r} matches no file")
        found |= files
    shared = os.path.commonpath([file.parent for file in found])
    return dict(sorted((file.relative_to(shared).as_posix(), file) for file in found))


def _reader(file: _File) -> Callable[[_File], Iterator[Document]]:
    match Path(file.name.lower()).suffixes:
        case [*_, ".txt" | ".md"] | [*_, ".txt" | ".md", ".gz" | ".zst"]:
            return _text
        case [*_, ".jsonl"] | [*_, ".jsonl", ".gz" | ".zst"]:
            return _jsonl
        case [*_, ".csv"] | [*_, ".csv", ".gz" | ".zst"]:
            return _csv
        case [*_, ".parquet"]:
            return _parquet
        case _:
            raise CorpusError(f"{file.place}: unknown ending; known are {ENDINGS}")


def _text(file: _File) -> Iterator[Document]:
    separator = file.spec.separator
    cut = pieces(file.path, file.place, separator.encode() if separator else None, file.max_document_bytes)
    number = 0
    try:
        for piece in cut:
            text = decoded(piece, file.place)
            if separator is None:
                yield file.document(text)
            elif text := text.strip():
                number += 1
                yield file.document(text, number)
    except TooLong:
        raise file.refuse_length(
            f"{file.name} after {number}" if separator else file.name, file.max_document_bytes
        ) from None


def _lines(file: _File) -> Iterator[str]:
    limit = ROW_FACTOR * file.max_document_bytes
    number = 0
    try:
        for piece in pieces(file.path, file.place, b"\n", limit):
            number += 1
            yield decoded(piece, file.place)
    except TooLong:
        raise file.refuse_length(f"{file.name}#{number + 1}", limit) from None


def _jsonl(file: _File) -> Iterator[Document]:
    column, found, row = file.spec.text_column, False, dict[str, Any]()
    for number, line in enumerate(_lines(file), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            problem = (
                f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else one_line(error)
            )
            raise CorpusError(f"{file.place}: line {number} is not JSON: {problem}") from None
        if not isinstance(row, dict):
            raise CorpusError(f"{file.place}: line {number} is not a JSON object with a key {column!r}")
        found = found or column in row
        if not found and number >= PATIENCE:
            raise file.refuse_column(row)
        yield file.row(row.get(column), number)
    if not found and row:
        raise file.refuse_column(row)


def _csv(file: _File) -> Iterator[Document]:
    csv.field_size_limit(file.max_document_bytes)  # characters; the module's own limit is 128 kB
    reader = csv.reader((line + "\n" for line in _lines(file)), strict=True)
    try:
        header = next(reader, None)
        if header is None:
            return
        if file.spec.text_column not in header:
            raise file.refuse_column(header)
        column = header.index(file.spec.text_column)
        for number, cells in enumerate(reader, 1):
            if cells:
                yield file.row(cells[column] if column < len(cells) else None, number)
    except csv.Error as error:
        if "field limit" in str(error):
            raise file.refuse_length(f"{file.name}, line {reader.line_num}", file.max_document_bytes) from None
        raise CorpusError(f"{file.place}: line {reader.line_num} is not CSV: {one_line(error)}") from None


def _parquet(file: _File) -> Iterator[Document]:
    column = file.spec.text_column
    try:
        with pq.ParquetFile(file.path, pre_buffer=False) as table:
            names = table.schema_arrow.names
            if column not in names:
                raise file.refuse_column(names)
            number = 0
            for batch in table.iter_batches(PARQUET_ROWS, columns=[column]):
                for value in batch.column(0).to_pylist():
                    number += 1
                    yield file.row(value, number)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{file.place}: broken .parquet: {one_line(error)}") from None
