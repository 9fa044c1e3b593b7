"""The matrix-product rate that a device reaches, measured: what model FLOPs utilisation is a share of.

No datasheet: a peak that no product on this machine reaches would say nothing about the trainer.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path

import torch

from ..models.config import ModelConfig
from ..models.flops import training_flops
from .device import device_name
from .files import cache_folder

# (rows, inner, columns): squares, and the tall products of a micro-batch. The best of them is the peak.
CPU_SHAPES = ((512, 512, 512), (1024, 1024, 1024), (2048, 512, 1024), (2048, 256, 768))
CUDA_SHAPES = ((4096, 4096, 4096), (8192, 8192, 8192), (16384, 2048, 8192))
PROBE_S = 1.0  # over all shapes


def mfu(tokens_per_s: float, config: ModelConfig, peak: float) -> float:
    """Model FLOPs utilisation (Chowdhery et al. 2022, arXiv 2204.02311, appendix B): C_exact per second over `peak`, in FLOPs/s.

    Attention is counted at the pairs that the causal mask leaves, so work on masked pairs counts against the trainer.
    """
    return tokens_per_s * training_flops(config).total / peak


def gemm_peak(device: torch.device, dtype: torch.dtype, threads: int = 1) -> float:
    """The fastest of a few matrix products in FLOPs/s: measured in about a second, then read from the cache.

    The cache is $XDG_CACHE_HOME/sixnd/gemm_peak.json (~/.cache by default), keyed by device, torch version, dtype and threads;
    delete it to measure again. One that cannot be read or written is passed over.

    Args:
        device: CPU or CUDA.
        dtype: of both factors and the product.
        threads: torch's, on CPU.
    """
    key = " | ".join((device_name(device), f"torch {torch.__version__}", str(dtype).removeprefix("torch.")))
    key += f" | {threads} threads" if device.type == "cpu" else ""
    known = _read_cache()
    if key not in known:
        known[key] = measure_peak(device, dtype, threads)
        _write_cache(known)
    return known[key]


def measure_peak(device: torch.device, dtype: torch.dtype, threads: int = 1) -> float:
    """`gemm_peak` without the cache."""
    shapes = CUDA_SHAPES if device.type == "cuda" else CPU_SHAPES
    usual = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return max(_rate(shape, device, dtype, PROBE_S / len(shapes)) for shape in shapes)
    finally:
        torch.set_num_threads(usual)


def _rate(shape: tuple[int, int, int], device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    """FLOPs/s of the fastest of the products that fit into `seconds`."""
    rows, inner, columns = shape
    left = torch.randn(rows, inner, device=device).to(dtype)
    right = torch.randn(columns, inner, device=device).to(dtype).t()  # as in a linear layer
    product = left @ right  # the first one plans kernels and allocates
    fastest, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        _wait(device)
        start = time.perf_counter()
        torch.mm(left, right, out=product)
        _wait(device)
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * rows * inner * columns / fastest


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _cache_file() -> Path:
    return cache_folder() / "gemm_peak.json"


def _read_cache() -> dict[str, float]:
    try:
        held = json.loads(_cache_file().read_text(encoding="utf-8"))
        return {str(key): float(peak) for key, peak in held.items() if float(peak) > 0}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write_cache(peaks: dict[str, float]) -> None:
    file = _cache_file()
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(peaks, indent=1) + "\n", encoding="utf-8")
        temporary.replace(file)
