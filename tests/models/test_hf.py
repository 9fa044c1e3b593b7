"""The mapping to Hugging Face's names: every parameter once, stacked rows told apart. tests/train/test_export.py loads it for real."""

from __future__ import annotations

import pytest
import torch
from sixnd.models.config import ModelConfig
from sixnd.models.hf import hf_config, hf_weights
from sixnd.models.transformer import Transformer


@pytest.mark.parametrize("qk_norm", [False, True])
def test_every_parameter_has_one_name(qk_norm: bool) -> None:
    config = ModelConfig.from_shape(3, 48, 300).model_copy(update={"qk_norm": qk_norm})
    model = Transformer(config)
    model.initialize(0)
    weights = hf_weights(model.state_dict())
    assert sum(tensor.numel() for tensor in weights.values()) == config.n_total
    assert "lm_head.weight" not in weights and hf_config(config, 0)["tie_word_embeddings"] is True
    assert len(weights) == 2 + 3 * (11 if qk_norm else 9)
    assert ("model.layers.2.self_attn.q_norm.weight" in weights) == qk_norm


def test_stacked_matrices_are_split_in_their_order() -> None:
    config = ModelConfig.from_shape(1, 32, 300)
    model = Transformer(config)
    model.initialize(0)
    state = model.state_dict()
    weights = hf_weights(state)
    for names, stacked in (
        (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "attention.qkv"),
        (("mlp.gate_proj", "mlp.up_proj"), "mlp.gate_up"),
    ):
        parts = [weights[f"model.layers.0.{name}.weight"] for name in names]
        assert torch.equal(torch.cat(parts), state[f"blocks.0.{stacked}.weight"])
        assert all(part.is_contiguous() and part.shape == parts[0].shape for part in parts)


def test_the_configuration_is_the_models() -> None:
    config = ModelConfig.from_shape(2, 48, 300, 64)
    written = hf_config(config, 7)
    assert written["model_type"] == "llama" and written["architectures"] == ["LlamaForCausalLM"]
    assert written["head_dim"] == 16 and written["num_attention_heads"] == written["num_key_value_heads"] == 3
    assert written["eos_token_id"] == written["bos_token_id"] == 7
    assert hf_config(config.model_copy(update={"qk_norm": True}), 7)["architectures"] == ["Qwen3ForCausalLM"]


def test_an_unknown_name_is_not_passed_over() -> None:
    with pytest.raises(KeyError):
        hf_weights({"blocks.0.attention.sink": torch.zeros(1)})
