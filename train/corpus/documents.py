"""Documents on disk while a corpus is built: parquet, one row group a batch, so that neither side holds more than a batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from .manifest import Count

BATCH_BYTES, BATCH_DOCUMENTS = 1_000_000, 4096
SCHEMA = pa.schema([("id", pa.string()), ("text", pa.large_string())])


@dataclass(frozen=True)
class Batch:
    """Documents of one source, in its order."""

    ids: list[str]
    texts: list[str]


class DocumentWriter:
    """Gathers documents into batches of about a megabyte; batch borders depend on the documents alone."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")  # Python's own file, so that a full disk is an ordinary OSError
        self._writer = pq.ParquetWriter(self._file, SCHEMA, compression="zstd", compression_level=1)
        self._batch = Batch([], [])
        self._batch_bytes = 0
        self.count = Count(documents=0, bytes=0)

    def add(self, id: str, text: str) -> None:
        size = len(text.encode())
        self._batch.ids.append(id)
        self._batch.texts.append(text)
        self._batch_bytes += size
        self.count += Count(documents=1, bytes=size)
        if self._batch_bytes >= BATCH_BYTES or len(self._batch.ids) >= BATCH_DOCUMENTS:
            self._flush()

    def _flush(self) -> None:
        if self._batch.ids:
            self._writer.write_table(pa.table([self._batch.ids, self._batch.texts], schema=SCHEMA))
        self._batch, self._batch_bytes = Batch([], []), 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if kind is None:
                self._flush()
                self._writer.close()
        finally:
            with suppress(OSError, ValueError):  # what is half written is not used; the writer must not try later
                self._writer.close()
            self._file.close()


def read_batches(path: Path) -> Iterator[Batch]:
    """The batches of a file, in order, one in memory at a time."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            yield Batch(table.column("id").to_pylist(), table.column("text").to_pylist())
