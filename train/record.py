"""What one run left behind: a row of the ledger."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class RunRecord(BaseModel):
    """One finished run. Loss is mean negative log-likelihood on the held-out documents, in nats per token."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    state: Literal["done", "diverged"]
    N_total: int
    N_non_embedding: int
    N_matmul: int
    D: int
    C_6nd: float = Field(description="6 · N_total · D, in FLOPs")
    C_exact: float = Field(description="matrix products of all training steps, in FLOPs")
    test_loss: float | None = None
    test_loss_se: float | None = None
    bits_per_byte: float | None = None
    loss_by_source: dict[str, float] = Field(default_factory=dict)
    test_loss_clean: float | None = Field(default=None, description="of held-out documents clean of training text")
    test_loss_dirty: float | None = Field(
        default=None, description="of those that share text with it; None: there is none"
    )
    lr: float
    batch_tokens: int
    seed: int
    tokens_per_s: float | None = Field(default=None, description="of the steps trained here, compilation left out")
    wall_s: float
    corpus: str
    spec: str = Field(description="the RunSpec as JSON")
    sixnd_version: str
    torch_version: str
    device: str
    n_layers: int
    d_model: int
    error: str | None = None
    finished_at: str
