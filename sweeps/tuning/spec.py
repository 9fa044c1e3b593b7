"""The `[tuning]` table of a sweep: which rungs, token counts and learning rates its ladder tries."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..counts import Count

Factor = Annotated[float, Field(gt=0)]


class TuningSettings(BaseModel):
    """A ladder: learning rates (and batches) on a few small models at two D, and the rule fitted through their optima."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    params: list[Count] = Field(
        default=[], description="non-embedding N of the rungs; none: four of the grid's smaller N"
    )
    tokens: list[Count] = Field(default=[], description="D of every rung; none: two of the grid's smaller D")
    lr_factors: list[Factor] = Field(
        default=[0.25, 0.5, 1.0, 2.0, 4.0], min_length=3, description="learning rates tried, times the published rule's"
    )
    batch_factors: list[Factor] = Field(
        default=[], description="batches tried beside train.batch_tokens, times it: powers of two; none: not tuned"
    )
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default=[0], min_length=1)
    max_extensions: int = Field(
        default=3, ge=0, description="learning rates (and batches) added where the best is at an edge"
    )
    refine: bool = Field(
        default=True, description="once bracketed, try the learning rates half way to either side of the best one too"
    )
    rule: str | None = Field(default=None, description="a rule.json tuned elsewhere, in place of a ladder")

    @model_validator(mode="after")
    def _one_ladder(self) -> Self:
        if self.rule is not None and (given := self.model_fields_set - {"rule"}):
            raise ValueError(f"rule takes the place of a ladder: it goes with no {', '.join(sorted(given))}")
        for key in ("params", "tokens", "lr_factors", "batch_factors", "seeds"):
            values = getattr(self, key)
            if len(set(values)) < len(values):
                raise ValueError(f"{key} names a value twice")
        if odd := [f for f in self.batch_factors if f == 1 or f not in (2.0**k for k in range(-8, 9))]:
            raise ValueError(f"batch_factors = {odd[0]:g} is not 0.5, 2, 4 or another power of two beside 1")
        return self
