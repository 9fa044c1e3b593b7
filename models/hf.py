"""The transformer under Hugging Face's names: Llama, or Qwen3 where queries and keys are normed. Nothing is computed.

Shape suffixes: D d_model, K head_dim, F d_ff, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .config import ModelConfig

BLOCK_NAMES = {
    "attention_norm.gain": "input_layernorm.weight",
    "attention.query_norm.gain": "self_attn.q_norm.weight",
    "attention.key_norm.gain": "self_attn.k_norm.weight",
    "attention.output.weight": "self_attn.o_proj.weight",
    "mlp_norm.gain": "post_attention_layernorm.weight",
    "mlp.down.weight": "mlp.down_proj.weight",
}
# One matrix here, several there: its rows, top to bottom.
STACKED_NAMES = {
    "attention.qkv.weight": ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    "mlp.gate_up.weight": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
}


def hf_config(config: ModelConfig, end_of_text_id: int) -> dict[str, object]:
    """config.json of transformers 5: `LlamaConfig`, or `Qwen3Config` with QK-norm, which norms each head before RoPE as we do.

    Args:
        config: the model.
        end_of_text_id: the token that opens every document, and so ends the one before.
    """
    family = "Qwen3" if config.qk_norm else "Llama"
    return {
        "architectures": [f"{family}ForCausalLM"],
        "model_type": family.lower(),
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "attention_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": end_of_text_id,
        "eos_token_id": end_of_text_id,
        "dtype": "float32",
    }


def hf_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A `Transformer`'s state under Hugging Face's names; the head is tied, so there is no lm_head.weight.

    Args:
        state: `Transformer.state_dict()`: embedding (V, D), qkv (3·D, D), gate_up (2·F, D), gains (D,) or (K,), ...

    Raises:
        KeyError: a name that this file does not know.
    """
    weights: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name == "embedding":
            weights["model.embed_tokens.weight"] = tensor
        elif name == "head.norm.gain":
            weights["model.norm.weight"] = tensor
        else:
            _, layer, inside = name.split(".", 2)
            parts = STACKED_NAMES[inside] if inside in STACKED_NAMES else (BLOCK_NAMES[inside],)
            for part, rows in zip(parts, tensor.chunk(len(parts)), strict=True):
                weights[f"model.layers.{layer}.{part}"] = rows.contiguous()
    return weights
