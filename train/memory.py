"""What a run needs of memory and disk, in closed form: enough to pack runs on a device before one is started. Imports no torch.

d = width, f = width of the MLP, h = heads, T = context, V = vocabulary; all in bytes.
"""

from __future__ import annotations

from ..models.config import ModelConfig

CPU_MICRO_TOKENS = 2048  # activations of one micro-batch stay in the cache of one core
CUDA_MICRO_TOKENS = 65_536

# fp32 weights, their gradients, AdamW's two moments, and the bf16 copies that autocast keeps of the weights.
TRAINING_BYTES_PER_PARAMETER = 4 + 4 + 8 + 2
CHECKPOINT_BYTES_PER_PARAMETER = 12  # fp32 weights and two moments
CHECKPOINT_OVERHEAD = 100_000  # names, schedule, curve, zip headers
# Python, torch and its libraries: 330 MB resident in a worker that has trained nothing; on a GPU the CUDA context and kernels.
PROCESS_BYTES = {"cpu": 330_000_000, "cuda": 600_000_000}


def micro_batch_tokens(batch_tokens: int, context: int, device: str) -> int:
    """Tokens of one micro-batch: the largest divisor of the batch's rows that fits the device ("cpu" or "cuda")."""
    rows = batch_tokens // context
    most = max(1, (CUDA_MICRO_TOKENS if device == "cuda" else CPU_MICRO_TOKENS) // context)
    return context * max(n for n in range(1, min(rows, most) + 1) if rows % n == 0)


def activation_bytes(model: ModelConfig, micro_tokens: int) -> int:
    """Kept for the backward pass of one micro-batch.

    A block keeps, in 2 bytes, its two normalised inputs and two residuals (4d), query, key and value before and after
    RoPE (5d), the attention's output and projection (2d), gate, up and their product (3f), and the causal half of its
    attention probabilities (h·T/2) twice, before and after their cast. The head keeps logits and their gradient in fp32
    and once in 2 bytes (10 V).
    """
    block = 2 * (11 * model.d_model + 3 * model.d_ff + model.n_heads * model.context)
    return micro_tokens * (model.n_layers * block + 10 * model.vocab_size)


def training_bytes(model: ModelConfig, batch_tokens: int, device: str) -> int:
    """Peak memory of one run with its process, on "cpu" (resident) or "cuda" (of the GPU)."""
    micro = micro_batch_tokens(batch_tokens, model.context, device)
    state = TRAINING_BYTES_PER_PARAMETER * model.n_total
    return PROCESS_BYTES[device] + state + activation_bytes(model, micro)


def checkpoint_bytes(model: ModelConfig) -> int:
    """One checkpoint on disk."""
    return CHECKPOINT_BYTES_PER_PARAMETER * model.n_total + CHECKPOINT_OVERHEAD
