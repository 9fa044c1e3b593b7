"""The receipt of a corpus: what was read, what each step dropped, what is stored. It holds no date, so equal builds give equal bytes."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from .spec import CorpusSpec

HeldOut = Literal["test", "validation"]
Side = Literal[HeldOut, "train"]
FORMAT_VERSION = 2
MANIFEST, TOKENIZER, BUILT = "manifest.json", "tokenizer.json", "built.json"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _absent(value: object) -> bool:
    """Of a corpus without a validation side: left out, so that its manifest has the bytes it had before there was one."""
    return not value


class Count(_Frozen):
    """How much text: UTF-8 bytes, and tokens with one end-of-text a document."""

    documents: int
    bytes: int
    tokens: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(
            documents=self.documents + other.documents,
            bytes=self.bytes + other.bytes,
            tokens=self.tokens + other.tokens,
        )

    def with_tokens(self, per_byte: float) -> Count:
        """The same text with its tokens estimated: one a document and `per_byte` for each byte."""
        return self.model_copy(update={"tokens": round(self.documents + per_byte * self.bytes)})


class Example(_Frozen):
    """One document that a step dropped."""

    id: str
    reason: str
    beginning: str


class Step(_Frozen):
    """One step on one source, training and test documents together. Tokens are estimated from bytes: see `Manifest`."""

    step: str
    before: Count
    after: Count
    dropped: dict[str, int] = {}  # reason -> documents
    changed: int = 0  # documents whose text it altered
    examples: tuple[Example, ...] = ()

    def with_tokens(self, per_byte: float) -> Self:
        update = {"before": self.before.with_tokens(per_byte), "after": self.after.with_tokens(per_byte)}
        return self.model_copy(update=update)


class SourceEntry(_Frozen):
    """One source and what the corpus took of it. Tokens of its sides are counted, those of steps estimated."""

    name: str
    kind: str
    version: str
    licence: str
    sha256: str
    steps: tuple[Step, ...]
    train: Count
    test: Count
    validation: Count | None = Field(default=None, exclude_if=_absent)

    @property
    def sides(self) -> dict[Side, Count]:
        return _sides(self)


class ShardEntry(_Frozen):
    file: str
    tokens: int
    sha256: str


class DocumentEntry(_Frozen):
    """One held-out document; `overlap` is the share of its words in n-grams that the training text holds too."""

    source: str
    id: str
    bytes: int
    tokens: int
    overlap: float | None


class Manifest(_Frozen):
    """The corpus' receipt. A step's tokens are its bytes at the source's own tokens per byte, one more a document.

    Validation documents are not searched for training text: their overlap is None.
    """

    format_version: int
    hash: str
    name: str
    spec: CorpusSpec
    sources: tuple[SourceEntry, ...]
    train: Count
    test: Count
    test_text_sha256: str  # over the held-out texts in order: equal where two corpora hold out the same text
    vocab_size: int
    end_of_text_id: int
    bytes_per_token: float
    tokenizer_sha256: str
    dtype: str
    train_shards: tuple[ShardEntry, ...]
    test_shards: tuple[ShardEntry, ...]
    test_documents: tuple[DocumentEntry, ...]
    versions: dict[str, str]
    validation: Count | None = Field(default=None, exclude_if=_absent)
    validation_shards: tuple[ShardEntry, ...] = Field(default=(), exclude_if=_absent)
    validation_documents: tuple[DocumentEntry, ...] = Field(default=(), exclude_if=_absent)

    @property
    def shards(self) -> tuple[ShardEntry, ...]:
        """Of all sides."""
        return (*self.train_shards, *self.test_shards, *self.validation_shards)

    @property
    def sides(self) -> dict[Side, Count]:
        return _sides(self)


def _sides(entry: SourceEntry | Manifest) -> dict[Side, Count]:
    """What is stored on each side that the corpus has."""
    sides: dict[Side, Count] = {"train": entry.train, "test": entry.test}
    return sides | {"validation": entry.validation} if entry.validation else sides


class Built(_Frozen):
    """When and how a corpus was built; a file of its own, because no two builds agree on it."""

    created_at: str
    seconds: dict[str, float]  # of each step of the session that finished it
    processes: int
    state_bytes_per_document: int  # what deduplication holds in memory
