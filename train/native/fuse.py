"""Gives a model the C++ of this folder in place of what torch runs or compiles."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ...models.stack import StackedTransformer
from ...models.transformer import Transformer
from .block import block_libraries, fused_block
from .cross_entropy import cross_entropy_library, fused_cross_entropy
from .library import DEFINED, WIDTH, NotCompiled


def fuse_model(model: Transformer, dtype: torch.dtype, say: Callable[[str], None]) -> bool:
    """Fuses the model's blocks and its head's loss, for activations of `dtype` on a CPU.

    Returns False, with the model as it was, on a GPU, for a stack, head dimensions and widths that are no multiples of 16 and
    other dtypes, and, having said so, where the C++ does not compile.
    """
    config = model.config
    odd = any(width % WIDTH for width in (config.head_dim, config.d_ff))
    if model.embedding.device.type != "cpu" or dtype not in DEFINED or odd or isinstance(model, StackedTransformer):
        return False
    try:
        block_libraries(dtype, config.head_dim)
        cross_entropy_library(dtype)
    except NotCompiled as error:
        say(f"sixnd's own C++ does not compile here, training is slower: {error}")
        return False
    for block in model.blocks:
        block.run = fused_block(dtype)
    model.head.piece = fused_cross_entropy(dtype)
    return True
