"""M models of one shape as one program: every product of a layer is one batched product over the models.

A small model is bound by the launches of its kernels, not by their work; M of them together launch no more than one.
Activations keep the shapes of `transformer`, with the models' batches one after another in B = M·b, so that attention,
MLP and blocks are the very same code; only what holds weights is replaced here. Plain `bmm` rather than `vmap`:
attention, torch.compile and CUDA graphs see nothing that a single model does not show them.

Shape suffixes: M models, B batch (M·b), T time (tokens), D d_model, V vocabulary, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import ModelConfig
from .transformer import Head, Linear, Positions, RMSNorm, Transformer, score_head


def product_per_model(x: Tensor, weight_MOI: Tensor) -> Tensor:
    """Each model's rows of x, (M·b, ..., I), times its own matrix: (M·b, ..., O), in the dtype of x."""
    n_models, d_out, d_in = weight_MOI.shape
    y = torch.bmm(x.reshape(n_models, -1, d_in), weight_MOI.to(x.dtype).transpose(1, 2))
    return y.view(*x.shape[:-1], d_out)


class StackedLinear(nn.Module):
    """M matrices, (M, O, I); see `Linear`."""

    def __init__(self, n_models: int, one: Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_models, *one.weight.shape))

    def forward(self, x: Tensor) -> Tensor:
        return product_per_model(x, self.weight)


class StackedRMSNorm(nn.Module):
    """M gains, (M, width); see `RMSNorm`."""

    def __init__(self, n_models: int, one: RMSNorm) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(n_models, *one.gain.shape))
        self.eps = one.eps

    def forward(self, x: Tensor) -> Tensor:
        n_models, width = self.gain.shape
        x_fp32 = x.float().unflatten(0, (n_models, -1))
        scale = torch.rsqrt(x_fp32.square().mean(-1, keepdim=True) + self.eps)
        gain = self.gain.view(n_models, *[1] * (x.ndim - 1), width)
        y: Tensor = (x_fp32 * scale * gain).flatten(0, 1).to(x.dtype)
        return y


class StackedHead(Head):
    """Final norms, tied logits and cross-entropy of M models; see `Head`."""

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compiles all of it, and the scores of evaluation."""
        nn.Module.compile(self, *args, **kwargs)
        self.score = torch.compile(score_head, *args, **kwargs)

    def logits(self, x_BTD: Tensor, embedding_MVD: Tensor) -> Tensor:
        return product_per_model(self.norm(x_BTD), embedding_MVD).float()

    def forward(
        self, x_BTD: Tensor, embedding_MVD: Tensor, targets_BT: Tensor, z_loss: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        """Objectives and losses of the models, each (M,)."""
        logits_BTV, n_models = self.logits(x_BTD, embedding_MVD), len(embedding_MVD)
        logsumexp_BT = logits_BTV.logsumexp(-1)
        target_logit_BT = logits_BTV.gather(-1, targets_BT.unsqueeze(-1)).squeeze(-1)
        loss_M = (logsumexp_BT - target_logit_BT).view(n_models, -1).mean(1)
        return loss_M + z_loss * logsumexp_BT.square().view(n_models, -1).mean(1), loss_M.detach()


def stack_weights(module: nn.Module, n_models: int) -> None:
    """Replaces every matrix and gain under `module` by M of them."""
    for name, child in module.named_children():
        if isinstance(child, Linear):
            setattr(module, name, StackedLinear(n_models, child))
        elif isinstance(child, RMSNorm):
            setattr(module, name, StackedRMSNorm(n_models, child))
        else:
            stack_weights(child, n_models)


class StackedTransformer(Transformer):
    """M transformers of one shape. Parameters have the names of a single one's and a leading dimension of M.

    Inputs are those of `Transformer` with B = M·b: rows [m·b, (m + 1)·b) are model m's. Objective and loss are (M,), and
    z_loss may be.
    """

    def __init__(self, config: ModelConfig, n_models: int) -> None:
        super().__init__(config)
        self.n_models = n_models
        self.embedding = nn.Parameter(torch.empty(n_models, config.vocab_size, config.d_model))
        self.head = StackedHead(config)
        stack_weights(self, n_models)

    def initialize(self, seed: int) -> None:
        """The same weights, those of `Transformer.initialize(seed)`, for every model."""
        self.initialize_each([seed] * self.n_models)

    def initialize_each(self, seeds: Sequence[int]) -> None:
        """Model m gets the weights of `Transformer.initialize(seeds[m])`."""
        one = Transformer(self.config)
        for m, seed in enumerate(seeds):
            one.initialize(seed)
            self.load_one(m, one.state_dict())

    @torch.no_grad()
    def load_one(self, m: int, state: Mapping[str, Tensor]) -> None:
        """Copies a single model's state dict into model m."""
        for name, parameter in self.named_parameters():
            parameter[m].copy_(state[name])

    def state_of_one(self, m: int) -> dict[str, Tensor]:
        """Model m as the state dict of a `Transformer`; views, not copies."""
        return {name: parameter.detach()[m] for name, parameter in self.named_parameters()}

    def hidden(self, tokens_BT: Tensor, dtype: torch.dtype) -> Tensor:
        """The residual stream after the last block, (M·b, T, d_model)."""
        length = tokens_BT.shape[1]
        at = Positions(self.cos_TK[:length], self.sin_TK[:length], self.mask_TS[:length, :length].to(dtype))
        first_row_M11 = torch.arange(self.n_models, device=tokens_BT.device).view(-1, 1, 1) * self.config.vocab_size
        row_BT = (tokens_BT.unflatten(0, (self.n_models, -1)) + first_row_M11).flatten(0, 1)
        x_BTD = F.embedding(row_BT, self.embedding.flatten(0, 1)).to(dtype)
        for block in self.blocks:
            x_BTD = block(x_BTD, at)
        return x_BTD

    def forward(
        self, tokens_BT: Tensor, targets_BT: Tensor, dtype: torch.dtype, z_loss: float | Tensor = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Objectives and losses of the models, each (M,); see `Transformer.forward`."""
        objective_M, loss_M = self.head(self.hidden(tokens_BT, dtype), self.embedding, targets_BT, z_loss)
        return objective_M, loss_M
