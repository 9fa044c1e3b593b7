"""The optimizer's settings: small-scale values of the literature, and the learning rate a run starts from. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Precision = Literal["bf16", "fp32"]  # of activations and products; master weights, logits and losses are fp32 in both

BETA2_HALF_LIFE_TOKENS = 2e6
MAX_LR = 0.02


class OptimizerSettings(BaseModel):
    """AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101), or Muon for the blocks' matrices with AdamW for the rest.

    betas and eps are AdamW's in both cases; `lr` and `weight_decay` serve both parts (see `MuonWithAdamW`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Left out of a dump where it is the default: specs hashed before there was a choice keep their keys.
    name: Literal["adamw", "muon"] = Field(default="adamw", exclude_if=lambda name: name == "adamw")
    lr: float = Field(gt=0, description="peak learning rate")
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(ge=0, lt=1)
    eps: float = Field(default=1e-10, gt=0)
    weight_decay: float = Field(default=0.1, ge=0, description="on matrices only, the embedding among them")
    clip_norm: float = Field(default=1.0, gt=0, description="largest norm of the gradient")
    z_loss: float = Field(default=1e-5, ge=0, description="weight of the squared logsumexp")


def beta2_for(batch_tokens: int) -> float:
    """beta2 whose memory has a half-life of 2M tokens, within [.95, .999].

    Small batches want a longer memory in steps (Porian et al. 2024, arXiv 2406.19146; Marek et al. 2025,
    arXiv 2507.07101).
    """
    return float(min(0.999, max(0.95, 2 ** (-batch_tokens / BETA2_HALF_LIFE_TOKENS))))


def peak_lr(n_non_embedding: int) -> float:
    """Peak learning rate where none is given: a power law in N through the optima measured on small grids.

    See LOG.md for the measurement. A sweep tuned on its own text and batch will do better.
    """
    return float(min(MAX_LR, 8e-3 * (n_non_embedding / 100_000) ** -0.2))
