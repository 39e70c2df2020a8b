"""BART (Lewis et al. 2019, arXiv:1910.13461): BERT's way of norms in both stacks, and a bias of the logits."""

import math

from potstill.models.family import Family, Kind, Positions, Size, Stack
from potstill.models.roles import Part, Role


def _attention(module: str) -> dict[str, Role]:
    return {
        f"{module}.q_proj": Role.QUERY,
        f"{module}.k_proj": Role.KEY,
        f"{module}.v_proj": Role.VALUE,
        f"{module}.out_proj": Role.ATTENTION_OUT,
        f"{module}_layer_norm": Role.ATTENTION_NORM,
    }


def _stack(name: str) -> Stack:
    return Stack(
        layers=f"{name}.layers",
        attention="self_attn",
        inside={
            **_attention("self_attn"),
            "fc1": Role.FEED_FORWARD_IN,
            "fc2": Role.FEED_FORWARD_OUT,
            "final_layer_norm": Role.FEED_FORWARD_NORM,
        },
        around={
            f"{name}.embed_tokens": Role.TOKEN_EMBEDDING,
            f"{name}.embed_positions": Role.POSITION_EMBEDDING,
            f"{name}.layernorm_embedding": Role.EMBEDDING_NORM,
        },
    )


FAMILY = Family(
    name="bart",
    kind=Kind.ENCODER_DECODER,
    stacks={
        Part.ENCODER: _stack("encoder"),
        Part.DECODER: _stack("decoder"),
        Part.CROSS: Stack(layers="decoder.layers", attention="encoder_attn", inside=_attention("encoder_attn")),
    },
    base="model",
    base_modules={"shared": Role.TOKEN_EMBEDDING},
    outside={"lm_head": Role.HEAD, "final_logits_bias": Role.LOGITS_BIAS},
    sizes={
        Size.LAYERS: ("encoder_layers",),
        Size.DECODER_LAYERS: ("decoder_layers",),
        Size.WIDTH: ("d_model",),
        Size.HEADS: ("encoder_attention_heads", "decoder_attention_heads"),
        Size.INTERMEDIATE: ("encoder_ffn_dim", "decoder_ffn_dim"),
        Size.DROPOUT: ("dropout", "attention_dropout"),
    },
    config_fields={},
    positions=Positions.LEARNT,
    embedding_scale=lambda config: math.sqrt(config.d_model) if config.scale_embedding else 1.0,
)
