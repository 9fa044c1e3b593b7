"""AdamW as its settings say, and Muon beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..models.transformer import Transformer
from .settings import OptimizerSettings

MUON_MOMENTUM = (
    0.95  # with Nesterov and five Newton-Schulz steps: Jordan et al. 2024, kellerjordan.github.io/posts/muon
)


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
