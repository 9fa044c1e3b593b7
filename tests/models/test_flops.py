"""FLOPs in closed form against torch's own counter."""

from __future__ import annotations

import pytest
import sixnd.models.transformer as transformer
import torch
from sixnd.models.config import ModelConfig
from sixnd.models.flops import FORWARD_AND_BACKWARD, causal_pairs, six_n, training_flops
from torch.utils.flop_counter import FlopCounterMode

CONTEXT = 32


TEN_SHAPES = [  # layers, width, vocabulary, QK-norm: every head dim of the ladder
    (1, 16, 256, False),
    (1, 32, 300, False),
    (2, 48, 300, True),
    (4, 64, 1024, False),
    (3, 80, 517, False),
    (3, 96, 300, True),
    (2, 128, 1024, False),
    (2, 160, 2048, False),
    (1, 256, 4096, False),
    (1, 512, 300, False),
]


def counted(config: ModelConfig, backward: bool) -> dict[str, float]:
    """FLOPs per token of a pass by module, as torch counts them; `Global` is the whole."""
    model = transformer.Transformer(config)
    model.initialize(0)
    tokens = torch.randint(0, config.vocab_size, (2, config.context))
    with FlopCounterMode(display=False) as counter:
        objective, _ = model(tokens, tokens, torch.float32)
        if backward:
            objective.backward()
    return {name: sum(flops.values()) / tokens.numel() for name, flops in counter.get_flop_counts().items()}


@pytest.mark.parametrize(
    ("n_layers", "d_model", "vocab", "qk_norm", "rows"),
    [(*shape, rows) for rows in (CONTEXT, CONTEXT // 4) for shape in TEN_SHAPES] + [(*TEN_SHAPES[0], 1)],
)
def test_exact_flops_by_part(
    n_layers: int, d_model: int, vocab: int, qk_norm: bool, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The total of a whole pass, and the parts of the forward one: torch blurs where a backward product belongs."""
    monkeypatch.setattr(transformer, "CPU_ATTENTION_ROWS", {torch.float32: rows})
    config = ModelConfig.from_shape(n_layers, d_model, vocab, CONTEXT).model_copy(update={"qk_norm": qk_norm})
    parts = training_flops(config, CONTEXT // rows)
    assert counted(config, backward=True)["Global"] == pytest.approx(parts.total, rel=1e-12)
    forward = counted(config, backward=False)

    def trained(*endings: str) -> float:
        return FORWARD_AND_BACKWARD * sum(flops for name, flops in forward.items() if name.endswith(endings))

    assert trained(".mlp") == pytest.approx(parts.mlp, rel=1e-12)
    head = sum(flops for name, flops in forward.items() if name.endswith(".head"))
    assert head == pytest.approx(parts.head, rel=1e-12)  # its gradients are computed forward
    assert trained(".qkv", ".output") == pytest.approx(parts.projections, rel=1e-12)
    assert trained(".attention") == pytest.approx(parts.attention + parts.projections, rel=1e-12)
    rest = forward["Global"] - head - trained(".attention", ".mlp") / FORWARD_AND_BACKWARD
    assert rest == pytest.approx(parts.embedding, abs=1e-6)


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
