"""Tokens on disk: shards of uint16 or uint32, memory-mapped, with a manifest that says what they are.

A document is stored as the end-of-text token and then its tokens, so that its first token is predicted from something.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from .manifest import FORMAT_VERSION, MANIFEST, TOKENIZER, DocumentEntry, HeldOut, Manifest, ShardEntry
from .spec import CorpusError
from .tokenizer import load_tokenizer

Token = np.uint16 | np.uint32
# Never "delete": the path may be one that a user mistyped.
AGAIN = "move the folder away and build the corpus again with `sixnd corpus build`"


def token_dtype(vocab_size: int) -> np.dtype[Token]:
    """Little-endian uint16 where every id fits, uint32 where not."""
    return np.dtype("<u2") if vocab_size <= 2**16 else np.dtype("<u4")


class ShardWriter:
    """Appends token arrays to PREFIX-00000.bin, PREFIX-00001.bin, ... of at most `shard_tokens` each."""

    def __init__(self, folder: Path, prefix: str, shard_tokens: int, dtype: np.dtype[Token]) -> None:
        self.folder, self.prefix, self.shard_tokens, self.dtype = folder, prefix, shard_tokens, dtype
        self.shards: list[ShardEntry] = []
        self._file: BinaryIO | None = None
        self._count, self._digest = 0, hashlib.sha256()

    def write(self, tokens: NDArray[Token]) -> None:
        while len(tokens):
            if self._file is None:
                self._file = (self.folder / self._name).open("wb")
            piece = tokens[: self.shard_tokens - self._count].astype(self.dtype).tobytes()
            self._file.write(piece)
            self._digest.update(piece)
            written = len(piece) // self.dtype.itemsize
            self._count += written
            tokens = tokens[written:]
            if self._count == self.shard_tokens:
                self.close()

    @property
    def _name(self) -> str:
        return f"{self.prefix}-{len(self.shards):05d}.bin"

    def close(self) -> None:
        """Flushes the open shard to disk and notes it."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self.shards.append(ShardEntry(file=self._name, tokens=self._count, sha256=self._digest.hexdigest()))
            self._file, self._count, self._digest = None, 0, hashlib.sha256()


class ShardedTokens:
    """A read-only sequence of tokens over several memory-mapped shards."""

    def __init__(self, paths: list[Path], dtype: np.dtype[Token]) -> None:
        self.dtype = dtype
        self._shards = [np.memmap(path, dtype=dtype, mode="r") for path in paths]
        self._starts = np.cumsum([0, *(len(shard) for shard in self._shards)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def windows(self, starts: NDArray[np.int64], length: int) -> NDArray[Token]:
        """Tokens [start, start + length) of each start (n,): (n, length), in the shards' dtype.

        Raises:
            IndexError: a window reaches outside the tokens.
        """
        if len(starts) and (starts.min() < 0 or starts.max() + length > len(self)):
            raise IndexError(f"a window of {length} tokens reaches outside [0, {len(self)})")
        out = np.empty((len(starts), length), dtype=self.dtype)
        shards = np.searchsorted(self._starts, starts, side="right") - 1
        for row, (start, shard) in enumerate(zip(starts.tolist(), shards.tolist(), strict=True)):
            filled = 0
            while filled < length:
                first = start + filled - int(self._starts[shard])
                piece = self._shards[shard][first : first + length - filled]
                out[row, filled : filled + len(piece)] = piece
                filled, shard = filled + len(piece), shard + 1
        return out


@dataclass(frozen=True)
class HeldOutDocuments:
    """Where each held-out document lies in the tokens of its side."""

    offsets: NDArray[np.int64]  # (n_documents + 1,)
    bytes: NDArray[np.int64]  # (n_documents,) UTF-8 bytes of the text
    source: NDArray[np.int64]  # (n_documents,) index into the corpus' source_names
    overlap: NDArray[np.float64]  # (n_documents,) share of its words found in the training text; nan: not looked at
    names: tuple[str, ...]


@dataclass(frozen=True)
class Corpus:
    """A finished corpus on disk."""

    path: Path
    manifest: Manifest

    @property
    def hash(self) -> str:
        return self.manifest.hash

    @property
    def vocab_size(self) -> int:
        return self.manifest.vocab_size

    @property
    def dtype(self) -> np.dtype[Token]:
        return token_dtype(self.vocab_size)

    @property
    def source_names(self) -> tuple[str, ...]:
        return tuple(source.name for source in self.manifest.sources)

    @cached_property
    def train(self) -> ShardedTokens:
        return self._tokens(self.manifest.train_shards)

    @cached_property
    def test(self) -> ShardedTokens:
        return self._tokens(self.manifest.test_shards)

    @cached_property
    def validation(self) -> ShardedTokens:
        """Empty where the corpus has no validation side."""
        return self._tokens(self.manifest.validation_shards)

    def _tokens(self, shards: tuple[ShardEntry, ...]) -> ShardedTokens:
        return ShardedTokens([self.path / shard.file for shard in shards], self.dtype)

    @cached_property
    def test_documents(self) -> HeldOutDocuments:
        return self._documents(self.manifest.test_documents)

    @cached_property
    def validation_documents(self) -> HeldOutDocuments:
        return self._documents(self.manifest.validation_documents)

    def tokens_of(self, side: HeldOut) -> ShardedTokens:
        return self.test if side == "test" else self.validation

    def documents_of(self, side: HeldOut) -> HeldOutDocuments:
        return self.test_documents if side == "test" else self.validation_documents

    def _documents(self, entries: tuple[DocumentEntry, ...]) -> HeldOutDocuments:
        return HeldOutDocuments(
            offsets=np.cumsum([0, *(entry.tokens for entry in entries)], dtype=np.int64),
            bytes=np.array([entry.bytes for entry in entries], dtype=np.int64),
            source=np.array([self.source_names.index(entry.source) for entry in entries], dtype=np.int64),
            overlap=np.array([np.nan if entry.overlap is None else entry.overlap for entry in entries]),
            names=tuple(entry.id for entry in entries),
        )

    def tokenizer(self) -> Tokenizer:
        return load_tokenizer(str(self.path / TOKENIZER))


def read_corpus(path: Path) -> Corpus:
    """Opens the corpus in a folder.

    Raises:
        CorpusError: it is not there, or its manifest, tokenizer or a shard's size is not what it should be.
    """
    if not (path / MANIFEST).is_file():
        raise CorpusError(f"{path}: no corpus here; build it with `sixnd corpus build`")
    try:
        manifest = Manifest.model_validate_json((path / MANIFEST).read_bytes())
    except ValueError:
        raise CorpusError(f"{path / MANIFEST}: not a manifest of format {FORMAT_VERSION}; {AGAIN}") from None
    corpus = Corpus(path, manifest)
    if manifest.format_version != FORMAT_VERSION:
        raise CorpusError(
            f"{path / MANIFEST}: format {manifest.format_version} where {FORMAT_VERSION} is needed; {AGAIN}"
        )
    for shard in manifest.shards:
        file = path / shard.file
        size = file.stat().st_size if file.is_file() else 0
        if size != (expected := shard.tokens * corpus.dtype.itemsize):
            raise CorpusError(f"{file}: {size:,} bytes where {expected:,} should be; {AGAIN}")
    if not (path / TOKENIZER).is_file():
        raise CorpusError(f"{path / TOKENIZER}: missing; {AGAIN}")
    return corpus


def unique_tokens(n_tokens: int, context: int) -> int:
    """The largest D of one epoch: whole context windows, the last one's final target included, times the context."""
    return max(0, n_tokens - 1) // context * context


def sync(path: Path) -> None:
    """Returns once a file, or the entries of a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def damaged_files(corpus: Corpus) -> Iterator[str]:
    """Names of the files whose sha256 is not the manifest's; reads everything."""
    expected = {shard.file: shard.sha256 for shard in corpus.manifest.shards}
    expected[TOKENIZER] = corpus.manifest.tokenizer_sha256
    for file, sha256 in expected.items():
        with (corpus.path / file).open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != sha256:
                yield file
