"""Gemma 2 (Gemma Team 2024, arXiv:2408.00118): norms before and after each sublayer, soft caps on scores and logits.

Its embeddings are multiplied by the root of the width, its norms multiply by `1 + weight`, and every other layer looks
back through a window. Scores are scaled by `query_pre_attn_scalar`, which is not always the size of a head, and which
students keep.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from potstill.models import llama
from potstill.models.roles import Part, Role

LAYER = {
    **llama.LAYER,
    "post_attention_layernorm": Role.ATTENTION_OUT_NORM,
    "pre_feedforward_layernorm": Role.FEED_FORWARD_NORM,
    "post_feedforward_layernorm": Role.FEED_FORWARD_OUT_NORM,
}


def said_by_sizes(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """In place of a teacher of another family, all layers look back to the first token, and scores are scaled as its
    are."""
    layers = values["num_hidden_layers"]
    return {"layer_types": ["full_attention"] * layers, "query_pre_attn_scalar": values["head_dim"]}


FAMILY = replace(
    llama.FAMILY,
    name="gemma2",
    stacks={Part.ONLY: replace(llama.STACK, inside=LAYER)},
    config_fields={**llama.FAMILY.config_fields, "hidden_act": "hidden_activation"},
    said_by_sizes=said_by_sizes,
    norms_around_one=True,
    embedding_scale=lambda config: float(config.hidden_size**0.5),
    without_maps="its scores go through a soft cap, so transformers computes them by itself",
)
