"""What one run left behind: a row of the ledger."""

from __future__ import annotations

from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field


class CurvePoint(NamedTuple):
    """One point of a training curve."""

    tokens: int  # trained so far
    loss: float  # nats per token on the fixed sample of the held-out windows
    se: float | None  # standard error, documents drawn at random; None where fewer than two are in the sample


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
    accuracy: float | None = Field(default=None, description="share of held-out tokens that are the argmax")
    exact_match: dict[int, float] = Field(
        default_factory=dict, description="by k, the share of positions whose next k tokens are each the argmax"
    )
    curve: tuple[CurvePoint, ...] = Field(
        default=(),
        description="loss on a fixed sample of the held-out windows at log-spaced tokens; the last point is the run's"
        " end. A point before the cooldown is the loss at the trunk's learning rate, above that of a run of that D",
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
