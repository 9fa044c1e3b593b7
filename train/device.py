"""The device a run uses, how its model is compiled there, and what it is called."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable

import torch

from ..models.config import ModelConfig
from ..models.transformer import Transformer
from .machine import (
    BROKEN_COMPILER,
    NO_COMPILER,
    compiler_version,
    compiler_works,
    cpu_name,
    has_compiler,
    usable_cores,
)
from .memory import micro_batch_tokens
from .native.fuse import fuse_model
from .settings import Precision

SURE_COMPILER = 12  # this version of g++ and of clang++ knows every instruction set that torch generates code for


def pick_device() -> torch.device:
    """The current CUDA device where there is one, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def usual_slots() -> int:
    """Runs at once on this machine: one a GPU, or one a core that this process may use."""
    if torch.cuda.is_available():
        return torch.cuda.device_count()
    return usable_cores()


def device_name(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return cpu_name()


def native_precision(device: torch.device) -> Precision:
    """bf16 where the device has instructions for products in it: GPUs from compute capability 8.0 on, x86 with AVX512-BF16 or AMX.

    Elsewhere fp32, for emulated products take 30 to 90 times as long (LOG.md); also on ARM, where nothing was measured.
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "fp32"


def micro_batch_rows(
    model: ModelConfig, batch_tokens: int, device: torch.device, precision: Precision, n_models: int = 1
) -> int:
    """Rows of one micro-batch, of each model of a stack; see `micro_batch_tokens`."""
    kind = "cuda" if device.type == "cuda" else "cpu"
    return micro_batch_tokens(model, batch_tokens, kind, precision, n_models) // model.context


def release_memory() -> None:
    """Gives back what a run that has ended still holds of a GPU, its graph's memory above all: other programs may share it."""
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def compile_model(model: Transformer, dtype: torch.dtype, say: Callable[[str], None]) -> bool:
    """Makes the model fast for activations of `dtype`: by `fuse_model`, or one block and the head by torch, whose code further blocks reuse.

    Returns False, having said so, where there is no C++ compiler that works or compilation is turned off: the model runs eagerly.
    """
    if os.environ.get("TORCHDYNAMO_DISABLE") == "1":
        say("torch.compile is turned off (TORCHDYNAMO_DISABLE=1): training runs eagerly")
        return False
    if not has_compiler():
        say(NO_COMPILER)
        return False
    if fuse_model(model, dtype, say):
        return True
    if model.embedding.device.type == "cpu" and not compiler_works():  # torch would fail in the first step
        say(BROKEN_COMPILER)
        return False
    # More shapes than the limit would otherwise fall back to eager with only a log line.
    torch._dynamo.config.recompile_limit = 256
    torch._dynamo.config.accumulated_recompile_limit = 4096
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    torch._inductor.config.size_asserts = False  # 2 % of a small model's step; what is compiled has one shape
    if model.embedding.device.type == "cpu":
        # A C++ file for all kernels of a graph, not one for each: a third less to compile, and less Python in a step.
        torch._inductor.config.cpp_wrapper = True
        torch._inductor.config.cpp_wrapper_build_separate = True
        torch._inductor.config.aot_inductor.compile_wrapper_opt_level = "O0"  # of the code that calls the kernels
    if compiler_version() >= SURE_COMPILER:
        # Otherwise torch tries each instruction set of the CPU with a compilation and a process: CPU-seconds a worker.
        torch._inductor.config.cpp.vec_isa_ok = True
    for block in model.blocks:
        block.compile(dynamic=False)
    model.head.compile(dynamic=False)
    return True
