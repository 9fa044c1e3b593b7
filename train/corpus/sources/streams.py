"""Files as streams of bytes, cut into pieces of bounded size: what is too long is noticed before it is held."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from ..spec import CorpusError
from .document import one_line

BLOCK_BYTES = 1 << 20
BINARY_PROBE_BYTES = 8192
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes between two separators, and where they begin in the (decompressed) file."""

    offset: int
    data: bytes


class TooLong(Exception):
    """A piece that went on past the limit."""


def pieces(path: Path, place: str, separator: bytes | None, max_bytes: int) -> Iterator[Piece]:
    """What stands between separators, the whole file without one; holds at most `max_bytes` and two blocks.

    Raises:
        CorpusError: the file is binary, cannot be read, or its compression is broken; `place` names it.
        TooLong: a piece is longer than `max_bytes`.
    """
    rest, offset = bytearray(), 0
    for block in _blocks(path, place):
        searched = max(0, len(rest) - len(separator or b"") + 1)
        rest += block
        start = 0
        while separator and (end := rest.find(separator, max(start, searched))) >= 0:
            if end - start > max_bytes:
                raise TooLong
            yield Piece(offset + start, bytes(rest[start:end]))
            start = end + len(separator)
        del rest[:start]
        offset += start
        if len(rest) > max_bytes:
            raise TooLong
    if rest:
        yield Piece(offset, bytes(rest))


def decoded(piece: Piece, place: str) -> str:
    """
    Raises:
        CorpusError: it is not UTF-8.
    """
    data = piece.data.removeprefix(BOM) if piece.offset == 0 else piece.data
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        at = piece.offset + len(piece.data) - len(data) + error.start
        raise CorpusError(f"{place}: invalid UTF-8 at byte {at}; convert it to UTF-8") from None


def _open(path: Path) -> io.BufferedIOBase:
    match path.suffix.lower():
        case ".gz":
            return gzip.open(path)
        case ".zst":
            return pa.input_stream(str(path), compression="zstd")  # type: ignore[no-any-return]
        case _:
            return path.open("rb")


def _blocks(path: Path, place: str) -> Iterator[bytes]:
    first = True
    try:
        with closing(_open(path)) as stream:
            while block := stream.read(BLOCK_BYTES):
                if first and b"\0" in block[:BINARY_PROBE_BYTES]:
                    raise CorpusError(
                        f"{place}: a binary file (a NUL byte among the first {BINARY_PROBE_BYTES}), not text"
                    )
                first = False
                yield block
    except (gzip.BadGzipFile, zlib.error, EOFError, pa.ArrowException) as error:
        raise CorpusError(f"{place}: broken {path.suffix}: {one_line(error)}") from None
    except OSError as error:
        problem = "broken .zst" if path.suffix == ".zst" and error.errno is None else "cannot be read"
        raise CorpusError(f"{place}: {problem}: {one_line(error)}") from None
