"""The learning rate as a function of tokens seen: warm-up, power law, cooldown."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Schedule(BaseModel):
    """lr / peak over tokens t: linear warm-up, then (max(t, t0) / t0)^-p with t0 the warm-up's end, then a cooldown.

    Nothing before the cooldown depends on D, so that one trunk serves every D (Hägele et al. 2024, arXiv 2405.18392).
    p = 0 is constant (warm-up, stable, decay), p = 0.5 the inverse square root (Vaswani et al. 2017): a straight line
    on log-log axes. The cooldown multiplies by 1 - sqrt(x), x the share of it that is done (Hägele et al., section 3).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    p: float = Field(default=0.0, ge=0, le=1, description="exponent of the power law; 0 is constant")
    warmup_tokens: int = Field(ge=0)
    cooldown: float = Field(default=0.2, ge=0, le=1, description="share of D that the cooldown takes")

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
        return float(trunk * (1 - ((seen - branch) / (tokens - branch)) ** 0.5))
