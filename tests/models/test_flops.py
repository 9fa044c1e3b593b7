"""FLOPs in closed form against torch's own counter."""

from __future__ import annotations

import pytest
import sixnd.models.transformer as transformer
import torch
from sixnd.models.config import ModelConfig
from sixnd.models.flops import causal_pairs, six_n, training_flops
from torch.utils.flop_counter import FlopCounterMode

CONTEXT = 32


def counted(config: ModelConfig, rows: int) -> float:
    """FLOPs per token of one forward and backward pass, as torch counts them."""
    model = transformer.Transformer(config)
    model.initialize(0)
    tokens = torch.randint(0, config.vocab_size, (2, config.context))
    with FlopCounterMode(display=False) as counter:
        nll, _ = model(tokens, tokens, torch.float32)
        nll.mean().backward()
    return counter.get_total_flops() / tokens.numel()


@pytest.mark.parametrize("rows", [CONTEXT, CONTEXT // 2, CONTEXT // 4, 1])
@pytest.mark.parametrize(("n_layers", "d_model"), [(1, 32), (2, 48), (4, 64), (3, 96)])
def test_exact_flops(n_layers: int, d_model: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformer, "CPU_ATTENTION_ROWS", rows)
    config = ModelConfig.from_shape(n_layers, d_model, 300, CONTEXT)
    assert counted(config, rows) == pytest.approx(training_flops(config, CONTEXT // rows).total, rel=1e-12)


def test_one_row_at_a_time_is_the_causal_count() -> None:
    config = ModelConfig.from_shape(2, 32, 300, CONTEXT)
    assert training_flops(config, CONTEXT).total == pytest.approx(training_flops(config).total, rel=1e-12)
    assert causal_pairs(CONTEXT, 1) == CONTEXT**2


def test_six_n_is_exact_without_attention_and_gains() -> None:
    config = ModelConfig.from_shape(3, 64, 300, CONTEXT)
    parts = training_flops(config)
    assert parts.total - parts.attention == six_n(config.n_matmul)


def test_blocks_must_divide_the_context() -> None:
    with pytest.raises(ValueError, match="do not divide"):
        causal_pairs(32, 5)
