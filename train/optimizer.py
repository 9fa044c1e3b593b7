"""AdamW with the small-scale settings of the literature, Muon beside it, and the learning rate a run starts from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from ..models.transformer import Transformer

BETA2_HALF_LIFE_TOKENS = 2e6
MAX_LR = 0.02
MUON_MOMENTUM = (
    0.95  # with Nesterov and five Newton-Schulz steps: Jordan et al. 2024, kellerjordan.github.io/posts/muon
)


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


def build_optimizer(model: Transformer, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """The optimizer that `settings` name; every group's `lr` may be set before each step.

    Weight decay acts on matrices, not on the norms' gains. The embedding decays too: tied, it is the head's matrix.
    """
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    gains = [p for p in model.parameters() if p.ndim < 2]
    if settings.name == "adamw":
        return _adamw(matrices, gains, settings)
    hidden = [p for p in matrices if p is not model.embedding]
    muon = torch.optim.Muon(
        hidden,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        momentum=MUON_MOMENTUM,
        adjust_lr_fn="match_rms_adamw",
    )
    return MuonWithAdamW(muon, _adamw([model.embedding], gains, settings))


def _adamw(
    decayed: list[torch.nn.Parameter], others: list[torch.nn.Parameter], settings: OptimizerSettings
) -> torch.optim.AdamW:
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=settings.lr, betas=(settings.beta1, settings.beta2), eps=settings.eps, fused=True
    )


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) on the blocks' matrices and AdamW on embedding and gains, as one optimizer.

    One peak learning rate serves both: Muon's update of an (A, B) matrix is scaled by 0.2·sqrt(max(A, B)), which gives
    it the root mean square of a usual AdamW update (Liu et al. 2025, arXiv 2502.16982, section 2.2), so that a rate
    tuned for AdamW is a fair start. Matrices that the model keeps stacked (query, key and value; gate and up) are
    orthogonalised as the one matrix they are stored as.
    """

    def __init__(self, muon: torch.optim.Muon, adamw: torch.optim.AdamW) -> None:
        self.muon, self.adamw = muon, adamw
        super().__init__([*muon.param_groups, *adamw.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Both parts step on this optimizer's own groups and state, so that state dicts are those of one optimizer."""
        self.muon.param_groups, self.adamw.param_groups = self.param_groups[:1], self.param_groups[1:]
        self.muon.state = self.adamw.state = self.state

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of each; takes no closure."""
        if closure is not None:
            raise ValueError("MuonWithAdamW takes no closure")
        self.muon.step()
        self.adamw.step()
        return None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As every optimizer's; the groups and the state are new objects then."""
        super().load_state_dict(state_dict)
        self._share()


def peak_lr(n_non_embedding: int) -> float:
    """Peak learning rate where none is given: a power law in N through the optima measured on small grids.

    See LOG.md for the measurement. A sweep tuned on its own text and batch will do better.
    """
    return float(min(MAX_LR, 8e-3 * (n_non_embedding / 100_000) ** -0.2))
