"""What one run is: everything that decides its weights, and nothing that does not (no paths, no device)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..models.config import ModelConfig
from .corpus.manifest import HeldOut
from .schedule import Cosine, Schedule
from .settings import OptimizerSettings, Precision


class RunSpec(BaseModel):
    """One run: a model, its data, and how it is trained.

    Two runs that differ only in `tokens` share a trunk: the same weights up to the smaller one's cooldown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    corpus: str = Field(description="hash of the corpus")
    model: ModelConfig
    tokens: int = Field(gt=0, description="D: training tokens, a multiple of batch_tokens")
    seed: int = Field(ge=0, description="decides the initial weights and the order of the data")
    batch_tokens: int = Field(gt=0, description="tokens a step, a multiple of the context")
    optimizer: OptimizerSettings
    schedule: Schedule | Cosine
    precision: Precision
    # Left out of a dump where it is the default: specs hashed before there was a choice keep their keys.
    held_out: HeldOut = Field(
        default="test",
        exclude_if=lambda side: side == "test",
        description="the side of the corpus that the run is evaluated on; tuning looks at validation alone",
    )

    @model_validator(mode="after")
    def _whole_batches(self) -> Self:
        if self.batch_tokens % self.model.context:
            raise ValueError(f"batch_tokens = {self.batch_tokens} is not a multiple of context = {self.model.context}")
        if self.tokens % self.batch_tokens:
            raise ValueError(f"tokens = {self.tokens} is not a multiple of batch_tokens = {self.batch_tokens}")
        return self

    @property
    def n_steps(self) -> int:
        return self.tokens // self.batch_tokens

    @property
    def branch_step(self) -> int:
        """The first step of the cooldown: where this run leaves its trunk."""
        return self.schedule.cooldown_start(self.tokens) // self.batch_tokens

    @property
    def key(self) -> str:
        """Hash of the whole spec: the run's name in a ledger."""
        return _digest(self.model_dump(mode="json"))

    @property
    def trunk_key(self) -> str:
        """Hash of all but D: the name of the trunk that runs of other D share. With a cosine they share none."""
        return _digest(self.model_dump(mode="json", exclude={"tokens"} if self.schedule.shares_trunk else set()))


@dataclass(frozen=True)
class Stack:
    """Runs that differ in nothing but seed and optimizer, named as one: their trunks' stack branches where they would."""

    specs: tuple[RunSpec, ...]

    @property
    def branch_step(self) -> int:
        return self.specs[0].branch_step

    @property
    def key(self) -> str:
        return _digest([spec.key for spec in self.specs])

    @property
    def trunk_key(self) -> str:
        return _digest([spec.trunk_key for spec in self.specs])


def branch_file(spec: RunSpec | Stack) -> str:
    """Where below a folder of checkpoints the state lies in which a run leaves its trunk."""
    return f"{spec.trunk_key}/branch-{spec.branch_step:09d}.pt"


def _digest(document: object) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]
