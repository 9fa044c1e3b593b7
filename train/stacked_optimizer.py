"""AdamW for a stack of models, with settings of its own for each.

Shape suffixes: M models of the stack.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..models.stack import StackedTransformer
from .spec import RunSpec


class Settings(NamedTuple):
    """AdamW's settings, one of each for every model, fp64: as Python's own numbers are in torch.optim."""

    beta1_M: Tensor
    beta2_M: Tensor
    eps_M: Tensor
    weight_decay_M: Tensor
    clip_norm_M: Tensor
    z_loss_M: Tensor

    @classmethod
    def of(cls, specs: Sequence[RunSpec], device: torch.device) -> Settings:
        names = (field.removesuffix("_M") for field in cls._fields)
        columns = ([getattr(spec.optimizer, name) for spec in specs] for name in names)
        return cls(*(torch.tensor(column, dtype=torch.float64, device=device) for column in columns))


class StackedAdamW:
    """AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101) with settings of its own for each model of a stack.

    The same update as torch.optim.AdamW, whose settings are scalars. Nothing here waits for the device.
    """

    def __init__(self, stack: StackedTransformer, settings: Settings) -> None:
        self.parameters, self.settings = list(stack.parameters()), settings
        self.means = [torch.zeros_like(p) for p in self.parameters]
        self.squares = [torch.zeros_like(p) for p in self.parameters]
        device = stack.embedding.device
        self.n_steps = torch.zeros((), dtype=torch.float64, device=device)
        self.alive_M = torch.ones(stack.n_models, dtype=torch.bool, device=device)
        # One kernel a parameter instead of a dozen; on CPU compiling takes longer than it saves.
        self.update = torch.compile(adamw_update) if device.type == "cuda" else adamw_update

    @torch.no_grad()
    def step(self, loss_M: Tensor, lr_M: Tensor) -> Tensor:
        """Clips each model's gradient, updates its weights, and clears the gradients; returns the norms (M,) before.

        From the first loss or gradient that is not finite on, a model stays as it is.
        """
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm_M = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients]).square().sum(0).sqrt()
        self.alive_M.logical_and_(loss_M.isfinite() & norm_M.isfinite())
        self.n_steps.add_(1)
        share_M = (self.settings.clip_norm_M / (norm_M + 1e-6)).clamp(max=1.0)  # as torch's clip_grad_norm_ does
        for p, g, mean, square in zip(self.parameters, gradients, self.means, self.squares, strict=True):
            self.update(p, g, mean, square, self.settings, share_M, lr_M, self.alive_M, self.n_steps)
            p.grad = None
        return norm_M

    def state_dict(self) -> dict[str, Any]:
        return {"means": self.means, "squares": self.squares, "n_steps": self.n_steps, "alive": self.alive_M}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """In place: a captured step keeps pointing at the same memory."""
        mine = [*self.means, *self.squares, self.n_steps, self.alive_M]
        theirs = [*state["means"], *state["squares"], state["n_steps"], state["alive"]]
        with torch.no_grad():
            for tensor, saved in zip(mine, theirs, strict=True):
                tensor.copy_(saved)

    def freeze(self, models: Iterable[int]) -> None:
        """Leaves these as they are from now on."""
        for m in models:
            self.alive_M[m] = False


def adamw_update(
    parameter: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    settings: Settings,
    share_M: Tensor,
    lr_M: Tensor,
    alive_M: Tensor,
    n_steps: Tensor,
) -> None:
    """Updates one parameter (M, ...) and its moments in place; `share_M` of the gradient is left by the clip.

    `n_steps` counts this step. Models that are not alive keep their weights.
    """

    def wide(x_M: Tensor) -> Tensor:
        return x_M.to(parameter.dtype).view(-1, *[1] * (parameter.ndim - 1))

    beta1_M, beta2_M, lr_M = settings.beta1_M, settings.beta2_M, lr_M * alive_M
    gradient = torch.where(wide(alive_M) > 0, gradient * wide(share_M), 0.0)
    mean.lerp_(gradient, wide(1 - beta1_M))
    square.mul_(wide(beta2_M)).addcmul_(gradient, gradient * wide(1 - beta2_M))
    if parameter.ndim > 2:  # a matrix of each model; gains do not decay
        parameter.mul_(wide(1 - lr_M * settings.weight_decay_M))
    root = (square / wide(1 - beta2_M**n_steps)).sqrt() + wide(settings.eps_M)
    parameter.sub_(mean / root * wide(lr_M / (1 - beta1_M**n_steps)))
