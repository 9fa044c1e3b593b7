"""Closed-form counts against the modules themselves."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from sixnd.models.config import ModelConfig
from sixnd.models.ladder import shape_for
from sixnd.models.transformer import Transformer

SHAPES = [(1, 16), (2, 32), (2, 48), (3, 64), (4, 96), (5, 128)]


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize(("n_layers", "d_model"), SHAPES)
def test_counts_are_those_of_the_module(n_layers: int, d_model: int, qk_norm: bool) -> None:
    config = ModelConfig.from_shape(n_layers, d_model, 500).model_copy(update={"qk_norm": qk_norm})
    parameters = dict(Transformer(config).named_parameters())
    assert config.n_total == sum(p.numel() for p in parameters.values())
    assert config.n_non_embedding == sum(p.numel() for name, p in parameters.items() if name != "embedding")
    assert config.n_matmul == sum(p.numel() for p in parameters.values() if p.ndim == 2)


def test_the_embedding_is_counted_once_because_it_is_tied() -> None:
    small, large = (ModelConfig.from_shape(2, 32, vocab) for vocab in (500, 600))
    assert large.n_total - small.n_total == 100 * 32


def test_config_is_frozen_and_strict() -> None:
    config = ModelConfig.from_shape(2, 32, 500)
    with pytest.raises(ValidationError):
        config.n_layers = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        ModelConfig.model_validate(config.model_dump() | {"depth": 2})
    with pytest.raises(ValidationError, match="not a multiple of head_dim"):
        ModelConfig.model_validate(config.model_dump() | {"head_dim": 24})


@pytest.mark.parametrize(
    "target", [25_000, 55_000, 100_000, 442_000, 1_000_000, 10_000_000, 124_000_000, 1_000_000_000]
)
def test_ladder_comes_near_its_target_with_usual_proportions(target: int) -> None:
    n_layers, d_model = shape_for(target)
    n = ModelConfig.from_shape(n_layers, d_model, 1024).n_non_embedding
    assert abs(n / target - 1) < 0.15
    assert 8 <= d_model / n_layers <= 160


def test_ladder_refuses_what_it_has_no_shape_for() -> None:
    with pytest.raises(ValueError, match="outside the ladder"):
        shape_for(100)
