"""What a run needs of memory and disk, in closed form: enough to pack runs on a device before one is started. Imports no torch.

d = width, f = width of the MLP, h = heads, T = context, V = vocabulary; all in bytes.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..models.config import ModelConfig
from .machine import fuses
from .settings import Precision

CPU_MICRO_TOKENS = 2048  # activations of one micro-batch stay in the cache of one core
CUDA_MICRO_TOKENS = 65_536
CUDA_ACTIVATION_BYTES = 8_000_000_000  # of a micro-batch: enough to keep any GPU busy, and one of 24 GB has room

ELEMENT_BYTES = {"bf16": 2, "fp32": 4}  # of an activation
STATE_BYTES_PER_PARAMETER = {"bf16": 18, "fp32": 16}  # weights, gradients, two moments; in bf16 a copy of the weights
CHECKPOINT_BYTES_PER_PARAMETER = 12  # fp32 weights and two moments
USABLE = 0.9  # of a GPU's memory
MOST_STACKED = 8  # runs of one shape as one program on a GPU: what a launch costs is shared by them
CHECKPOINT_OVERHEAD = 100_000  # names, schedule, curve, zip headers
# Python, torch and its libraries: 330 MB resident in a worker that has trained nothing; on a GPU the CUDA context and kernels.
PROCESS_BYTES = {"cpu": 330_000_000, "cuda": 600_000_000}


def most_micro_tokens(model: ModelConfig, device: str, precision: Precision) -> int:
    """The most tokens that one micro-batch of a model, or of a stack of it, should have on "cpu" or "cuda"."""
    if device == "cpu":
        return CPU_MICRO_TOKENS
    return min(CUDA_MICRO_TOKENS, CUDA_ACTIVATION_BYTES // activation_bytes(model, 1, device, precision))


def micro_batch_tokens(
    model: ModelConfig, batch_tokens: int, device: str, precision: Precision, n_models: int = 1
) -> int:
    """Tokens of one micro-batch of each of `n_models` stacked: the largest divisor of its rows with which all fit, at least one row."""
    rows = batch_tokens // model.context
    most = max(1, most_micro_tokens(model, device, precision) // (n_models * model.context))
    return model.context * max(n for n in range(1, min(rows, most) + 1) if rows % n == 0)


def activation_bytes(model: ModelConfig, micro_tokens: int, device: str, precision: Precision) -> int:
    """Kept for the backward pass of one micro-batch.

    A block keeps, in the precision's bytes, its two normalised inputs and two residuals (4d), query, key and value before and after
    RoPE (5d), the attention's output and projection (2d), gate, up and their product (3f), and, on a CPU, the causal half of its
    attention probabilities (h·T/2) twice, before and after their cast; attention that is fused keeps none (Dao et al. 2022,
    FlashAttention, arXiv 2205.14135). A block of our own C++ on a CPU keeps two residuals (2d), query, key and value (3d),
    the attention's output (d), gate and up (2f). The head keeps logits and their gradient in fp32, and in bf16 once in 2 bytes (10 V).
    """
    if device == "cpu" and fuses(model):
        elements = 6 * model.d_model + 2 * model.d_ff
    else:
        probabilities = 0 if device != "cpu" else model.n_heads * model.context
        elements = 11 * model.d_model + 3 * model.d_ff + probabilities
    block = ELEMENT_BYTES[precision] * elements
    head = {"bf16": 10, "fp32": 8}[precision] * model.vocab_size
    return micro_tokens * (model.n_layers * block + head)


def training_bytes(model: ModelConfig, batch_tokens: int, device: str, precision: Precision, n_models: int = 1) -> int:
    """Peak memory of one run with its process, on "cpu" (resident) or "cuda" (of the GPU), or of a stack of `n_models`.

    On a GPU activations count twice: the captured step keeps its own memory, and evaluation takes as much beside it.
    """
    micro_tokens = n_models * micro_batch_tokens(model, batch_tokens, device, precision, n_models)
    activations = activation_bytes(model, micro_tokens, device, precision)
    state = STATE_BYTES_PER_PARAMETER[precision] * model.n_total * n_models
    return PROCESS_BYTES[device] + state + activations * (2 if device == "cuda" else 1)


def most_stacked(
    models: Iterable[ModelConfig], batch_tokens: int, precision: Precision, gpu_bytes: int, alike: int
) -> int:
    """How many of `alike` runs, that differ in seed and learning rate alone, one program on a GPU trains at once.

    As many as the largest of the models leaves room for; at least one.
    """
    shapes, room = tuple(models), int(USABLE * gpu_bytes)
    for n in range(min(MOST_STACKED, alike), 1, -1):
        if max(training_bytes(model, batch_tokens, "cuda", precision, n) for model in shapes) <= room:
            return n
    return 1


def checkpoint_bytes(model: ModelConfig) -> int:
    """One checkpoint on disk."""
    return CHECKPOINT_BYTES_PER_PARAMETER * model.n_total + CHECKPOINT_OVERHEAD
