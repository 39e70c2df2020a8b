"""Tiny random decoders of every family, with sizes in words that most of them share, and what sets them apart."""

from typing import Any

import torch
from transformers import CONFIG_MAPPING, PretrainedConfig, PreTrainedModel

from potstill.models import FAMILIES, Kind
from potstill.tasks import CausalLM

DECODERS = [name for name, family in FAMILIES.items() if family.kind is Kind.DECODER]

_LONG = {"rope_type": "longrope", "partial_rotary_factor": 0.5, "short_factor": [1.0, 1.5], "long_factor": [2.0, 3.0]}
"""Of heads of 8 channels, of which half are turned."""
OWN: dict[str, dict[str, Any]] = {
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "mlp_only_layers": [2], "intermediate_size": 20},
    "gemma2": {
        "query_pre_attn_scalar": 12,
        "sliding_window": 4,
        "final_logit_softcapping": 3.0,
        "attn_logit_softcapping": 2.0,
    },
    "gemma3_text": {"query_pre_attn_scalar": 12, "sliding_window": 4, "sliding_window_pattern": 3},
    "granite": {
        "embedding_multiplier": 5.0,
        "attention_multiplier": 0.2,
        "residual_multiplier": 0.3,
        "logits_scaling": 3.0,
    },
    "phi3": {"rope_parameters": _LONG, "original_max_position_embeddings": 16},
}
"""What families have of their own, so that it shows."""


def decoder_config(family: str, **changes: Any) -> PretrainedConfig:
    """Five layers of two heads, unless something else is asked for."""
    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 5}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64}
    names = dict(FAMILIES[family].config_fields)
    if family == "qwen3_moe":
        names["intermediate_size"] = "moe_intermediate_size"
    own = {names[name]: value for name, value in (sizes | changes).items() if name in names}
    own |= {name: value for name, value in changes.items() if name not in sizes and name not in names}
    tokens = {"bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0}
    config: PretrainedConfig = CONFIG_MAPPING[family](**OWN.get(family, {}) | tokens | own)
    return config


def decoder(family: str, **changes: Any) -> PreTrainedModel:
    torch.manual_seed(1)
    model: PreTrainedModel = CausalLM().new_model(decoder_config(family, **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            # So large that each of them shows in what the model says, norms and biases too.
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def layers_of(model: Any) -> Any:
    return model.base_model.get_submodule(FAMILIES[model.config.model_type].stacks["only"].layers)


def queries_and_values(model: Any, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The matrices of a layer, with what they read along their columns."""
    attention = layers_of(model)[layer].get_submodule(
        "attn" if hasattr(layers_of(model)[layer], "attn") else "self_attn"
    )
    if hasattr(attention, "q_proj"):
        return attention.q_proj.weight, attention.v_proj.weight
    fused = attention.c_attn.weight.T if hasattr(attention, "c_attn") else attention.qkv_proj.weight
    heads = model.config.num_attention_heads * 8
    return fused[:heads], fused[(heads + len(fused)) // 2 :]
