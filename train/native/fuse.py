"""Gives a model the C++ of this folder in place of what torch would compile."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ...models.transformer import Attention, Transformer
from .attention import attention_library, fused_attention
from .library import DEFINED, WIDTH, NotCompiled


def fuse_model(model: Transformer, dtype: torch.dtype, say: Callable[[str], None]) -> bool:
    """Gives the model's blocks fused attention for activations of `dtype`; others are left to `blocked_attention`.

    Returns False, with the model as it was, on a GPU, for another dtype or head_dim than the fused one has, and, having said so,
    where it does not compile.
    """
    head_dim = model.config.head_dim
    if model.embedding.device.type != "cpu" or dtype not in DEFINED or head_dim % WIDTH:
        return False
    try:
        attention_library(dtype, head_dim)
    except NotCompiled as error:
        say(f"attention.cpp does not compile here, attention is torch's: {error}")
        return False
    attend = fused_attention(dtype)
    for module in model.modules():
        if isinstance(module, Attention):
            module.attend = attend
    return True
