"""Gives a model the C++ of this folder in place of what torch runs or compiles."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ...models.stack import StackedTransformer
from ...models.transformer import Attention, SwiGLU, Transformer
from .attention import attention_library, fused_attention
from .cross_entropy import cross_entropy_library, fused_cross_entropy
from .library import DEFINED, WIDTH, NotCompiled
from .swiglu import fused_gate, swiglu_library


def fuse_model(model: Transformer, dtype: torch.dtype, say: Callable[[str], None]) -> bool:
    """Fuses attention and the SwiGLU's gate in the model's blocks, and its head's loss, for activations of `dtype` on a CPU.

    Head dimensions and widths that are no multiples of 16, other dtypes, and the head of a stack are left as they are.
    Returns False, with the model as it was, on a GPU and, having said so, where the C++ does not compile.
    """
    config = model.config
    if model.embedding.device.type != "cpu" or dtype not in DEFINED:
        return False
    try:
        if config.head_dim % WIDTH == 0:
            attention_library(dtype, config.head_dim)
        if config.d_ff % WIDTH == 0:
            swiglu_library(dtype)
        if config.d_model % WIDTH == 0:
            cross_entropy_library(dtype)
    except NotCompiled as error:
        say(f"sixnd's own C++ does not compile here, training is slower: {error}")
        return False
    for module in model.modules():
        if isinstance(module, Attention) and config.head_dim % WIDTH == 0:
            module.attend = fused_attention(dtype)
        elif isinstance(module, SwiGLU) and config.d_ff % WIDTH == 0:
            module.gate = fused_gate(dtype)
    if not isinstance(model, StackedTransformer) and config.d_model % WIDTH == 0:
        model.head.piece = fused_cross_entropy(dtype)
    return True
