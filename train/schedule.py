"""The learning rate as a function of tokens seen: warm-up, then a power law with a cooldown, or a cosine."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Schedule(BaseModel):
    """lr / peak over tokens t: linear warm-up, then (max(t, t0) / t0)^-p with t0 the warm-up's end, then a cooldown.

    Nothing before the cooldown depends on D, so that one trunk serves every D (Hägele et al. 2024, arXiv 2405.18392).
    p = 0 is constant (warm-up, stable, decay), p = 0.5 the inverse square root (Vaswani et al. 2017): a straight line
    on log-log axes. With x the share of the cooldown that is done, it multiplies by 1 - sqrt(x) or, linear, by 1 - x
    (Hägele et al., section 3).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    p: float = Field(default=0.0, ge=0, le=1, description="exponent of the power law; 0 is constant")
    warmup_tokens: int = Field(ge=0)
    cooldown: float = Field(default=0.2, ge=0, le=1, description="share of D that the cooldown takes")
    # Left out of a dump where it is the default: specs hashed before there was a choice keep their keys.
    cooldown_shape: Literal["1-sqrt", "linear"] = Field(default="1-sqrt", exclude_if=lambda shape: shape == "1-sqrt")

    @property
    def shares_trunk(self) -> bool:
        """Whether runs of another D have the same learning rates up to their cooldowns."""
        return True

    def cooldown_start(self, tokens: int) -> int:
        """Tokens after which a run of `tokens` leaves its trunk."""
        return tokens - round(self.cooldown * tokens)

    def multiplier(self, seen: int, batch: int, tokens: int, branch: int) -> float:
        """lr / peak of the step that starts after `seen` tokens.

        Args:
            seen: tokens trained before the step.
            batch: tokens of the step: a warm-up step counts itself, so that the first one is not idle.
            tokens: D of the run.
            branch: tokens at which its cooldown starts.
        """
        if seen + batch < self.warmup_tokens:
            trunk = (seen + batch) / self.warmup_tokens
        else:
            start = max(self.warmup_tokens, batch)
            trunk = (max(seen, start) / start) ** -self.p
        if seen < branch:
            return trunk
        done = (seen - branch) / (tokens - branch)
        return float(trunk * (1 - (done if self.cooldown_shape == "linear" else done**0.5)))


class Cosine(BaseModel):
    """lr / peak over tokens: linear warm-up, then half a cosine from 1 down to `floor` at D.

    Loshchilov & Hutter 2017 (arXiv 1608.03983, equation 5), without restarts; its length matched to D and ended at a
    tenth of the peak (Hoffmann et al. 2022, arXiv 2203.15556, appendix B). All of it depends on D, so that no two D
    share a trunk: each run pays for all of its tokens.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["cosine"] = "cosine"
    warmup_tokens: int = Field(ge=0)
    floor: float = Field(default=0.1, ge=0, lt=1, description="share of the peak that is left at D")

    @property
    def shares_trunk(self) -> bool:
        """Never: see the class."""
        return False

    def cooldown_start(self, tokens: int) -> int:  # noqa: ARG002 - the interface of Schedule
        """0: a run of any length leaves its trunk at once."""
        return 0

    def multiplier(self, seen: int, batch: int, tokens: int, branch: int) -> float:  # noqa: ARG002 - as above
        """lr / peak of the step that starts after `seen` tokens; `branch` plays no part. See `Schedule.multiplier`."""
        if seen + batch < self.warmup_tokens:
            return (seen + batch) / self.warmup_tokens
        done = max(0, seen - self.warmup_tokens) / max(1, tokens - self.warmup_tokens)
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2
