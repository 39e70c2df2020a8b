"""Llama (Touvron et al. 2023, arXiv:2302.13971), and what most decoders have in common with it."""

from potstill.models.family import Family, Gain, Kind, Size, Stack
from potstill.models.roles import Part, Role

LAYER = {
    "self_attn.q_proj": Role.QUERY,
    "self_attn.k_proj": Role.KEY,
    "self_attn.v_proj": Role.VALUE,
    "self_attn.o_proj": Role.ATTENTION_OUT,
    "input_layernorm": Role.ATTENTION_NORM,
    "mlp.gate_proj": Role.FEED_FORWARD_GATE,
    "mlp.up_proj": Role.FEED_FORWARD_IN,
    "mlp.down_proj": Role.FEED_FORWARD_OUT,
    "post_attention_layernorm": Role.FEED_FORWARD_NORM,
}
CONFIG_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
    "initializer_range",
    "hidden_act",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "rope_parameters",
    "tie_word_embeddings",
    "attention_dropout",
)
STACK = Stack(layers="layers", attention="self_attn", inside=LAYER, around={"norm": Role.FINAL_NORM}, pre_norm=True)

FAMILY = Family(
    name="llama",
    kind=Kind.DECODER,
    stacks={Part.ONLY: STACK},
    base="model",
    base_modules={"embed_tokens": Role.TOKEN_EMBEDDING},
    outside={"lm_head": Role.HEAD},
    sizes={
        Size.LAYERS: ("num_hidden_layers",),
        Size.WIDTH: ("hidden_size",),
        Size.HEADS: ("num_attention_heads",),
        Size.KEY_VALUE_HEADS: ("num_key_value_heads",),
        Size.HEAD: ("head_dim",),
        Size.INTERMEDIATE: ("intermediate_size",),
    },
    config_fields={name: name for name in CONFIG_FIELDS},
    # SmolLM2-135M before any training, KL from the teacher at widths 504 and 384 of 576: pruned 1.4 and 5.2 with the
    # factor in the norms, 1.7 and 5.7 without; sliced 13.8 and 12.2 with it, 13.2 and 9.5 without.
    gain=Gain.NORMS_OF_PRUNED,
)
