"""Gemma 2 (Gemma Team 2024, arXiv:2408.00118): norms before and after each sublayer, soft caps on scores and logits.

Its embeddings are multiplied by the root of the width, its norms multiply by `1 + weight`, and every other layer looks
back through a window. Scores are scaled by `query_pre_attn_scalar`, which is not always the size of a head, and which
students keep.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from potstill.models import llama
from potstill.models.family import Gain
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
    # A small Gemma 2 of Python sources before any training, KL from the teacher at widths 112, 96 and 64 of 128, all
    # layers: sliced 0.03, 0.08 and 0.20 so, 0.05, 0.19 and 0.58 without, 0.04, 0.15 and 0.52 with the factor where
    # layers read; pruned 0.01, 0.05 and 0.26 so, 0.03, 0.16 and 0.68 without, 0.02, 0.12 and 0.56.
    gain=Gain.NORMS,
    norms_around_one=True,
    embedding_scale=lambda config: float(config.hidden_size**0.5),
    without_maps="its scores go through a soft cap, so transformers computes them by itself",
)
