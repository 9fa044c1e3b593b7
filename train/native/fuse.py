"""Gives a model the C++ of this folder in place of what torch runs or compiles."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ...models.stack import StackedTransformer
from ...models.transformer import Block, Transformer
from ..machine import fuses
from .block import attention_library, fused_block, mlp_library
from .cross_entropy import cross_entropy_library, fused_cross_entropy, fused_scores
from .library import DEFINED, NotCompiled


def fuse_model(model: Transformer, dtype: torch.dtype, say: Callable[[str], None]) -> bool:
    """Fuses the model's blocks and its head, for activations of `dtype` on a CPU: nothing is left for torch to compile.

    Returns False, with the model as it was, on a GPU, for stacks, other dtypes and what `fuses` says no to, and, having said
    so, where the C++ does not compile.
    """
    possible = model.embedding.device.type == "cpu" and dtype in DEFINED and not isinstance(model, StackedTransformer)
    if not possible or not fuses(model.config):
        return False
    try:
        attention_library(dtype, model.config.head_dim)
        mlp_library(dtype)
        cross_entropy_library(dtype)
    except NotCompiled as error:
        say(f"sixnd's own C++ does not compile here, training is slower: {error}")
        return False
    for block in model.blocks:
        assert isinstance(block, Block)
        block.run = fused_block(dtype)
    model.head.gradients, model.head.score = fused_cross_entropy(dtype), fused_scores(dtype)
    return True
