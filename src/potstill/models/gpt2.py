"""GPT-2 (Radford et al. 2019), and DistilGPT2: learnt positions, and matrices that have their inputs first."""

from potstill.models.family import Family, Gain, Kind, Positions, Size, Stack
from potstill.models.roles import Part, Role

_FIELDS = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "intermediate_size": "n_inner",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "n_positions",
    "initializer_range": "initializer_range",
    "hidden_act": "activation_function",
    "rms_norm_eps": "layer_norm_epsilon",
    "tie_word_embeddings": "tie_word_embeddings",
    "attention_dropout": "attn_pdrop",
}

FAMILY = Family(
    name="gpt2",
    kind=Kind.DECODER,
    stacks={
        Part.ONLY: Stack(
            layers="h",
            attention="attn",
            inside={
                "attn.c_attn": Role.QUERY_KEY_VALUE,
                "attn.c_proj": Role.ATTENTION_OUT,
                "ln_1": Role.ATTENTION_NORM,
                "mlp.c_fc": Role.FEED_FORWARD_IN,
                "mlp.c_proj": Role.FEED_FORWARD_OUT,
                "ln_2": Role.FEED_FORWARD_NORM,
            },
            around={"ln_f": Role.FINAL_NORM},
            pre_norm=True,
        )
    },
    base="transformer",
    base_modules={"wte": Role.TOKEN_EMBEDDING, "wpe": Role.POSITION_EMBEDDING},
    outside={"lm_head": Role.HEAD},
    sizes={
        Size.LAYERS: ("n_layer",),
        Size.WIDTH: ("n_embd",),
        Size.HEADS: ("n_head",),
        Size.INTERMEDIATE: ("n_inner",),
        Size.DROPOUT: ("resid_pdrop", "embd_pdrop", "attn_pdrop"),
    },
    config_fields=_FIELDS,
    usual_sizes={Size.INTERMEDIATE: lambda config: 4 * config.n_embd},
    positions=Positions.LEARNT,
    # A small GPT-2 of Python sources before any training, KL from the teacher at widths 112, 96 and 64 of 128, all
    # layers: sliced 0.04, 0.12 and 0.39 so, 0.08, 0.26 and 0.71 without, 0.06, 0.20 and 0.71 with the factor where
    # layers read; pruned 0.02, 0.08 and 0.39 so, 0.04, 0.19 and 0.74 without, 0.03, 0.15 and 0.68.
    gain=Gain.NORMS,
    inputs_first=True,
    not_cut=lambda config: (
        "its layers scale their scores by where they stand (scale_attn_by_inverse_layer_idx), so that they are others "
        "in a student of fewer layers"
        if config.scale_attn_by_inverse_layer_idx
        else "it has attention to a second model (add_cross_attention)"
        if config.add_cross_attention
        else None
    ),
)
