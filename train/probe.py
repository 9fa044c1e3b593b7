"""How fast this machine trains a shape, measured in a second, to cost a plan before anything is compiled."""

from __future__ import annotations

import time

import torch

from ..models.config import ModelConfig
from ..models.flops import training_flops
from ..models.transformer import Transformer
from .device import micro_batch_rows, pick_device
from .machine import has_compiler

COMPILED_GAIN = 2.0  # compiled over eager tokens/s: 1.8 to 2.3 over the demo's shapes
LARGEST_PROBED = 5_000_000  # non-embedding parameters; beyond, time is taken to grow with FLOPs
REPEATS = 3


def probe_tokens_per_s(models: set[ModelConfig], batch_tokens: int) -> dict[ModelConfig, float]:
    """Expected training speed of each shape on one worker, from a few eager passes of the shape itself.

    Shapes above LARGEST_PROBED are scaled by exact FLOPs from a probed one of that size.
    """
    speeds = {}
    gain = COMPILED_GAIN if has_compiler() else 1.0
    for model in models:
        probed = model
        if model.n_non_embedding > LARGEST_PROBED:
            probed = ModelConfig.from_shape(6, 256, model.vocab_size, model.context)
        speed = gain * _eager_tokens_per_s(probed, batch_tokens)
        speeds[model] = speed * training_flops(probed).total / training_flops(model).total
    return speeds


def _eager_tokens_per_s(config: ModelConfig, batch_tokens: int) -> float:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        device = pick_device()
        model = Transformer(config).to(device)
        model.initialize(0)
        rows = micro_batch_rows(batch_tokens, config.context, device)
        tokens = torch.zeros(rows, config.context, dtype=torch.int64, device=device)
        seconds = []
        for _ in range(REPEATS + 1):
            start = time.perf_counter()
            objective, _ = model(tokens, tokens, torch.bfloat16)
            objective.backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        return rows * config.context / min(seconds[1:])
    finally:
        torch.set_num_threads(threads)
