"""Gemma 3 (Gemma Team 2025, arXiv:2503.19786), its language model alone: Gemma 2 with norms within each head's queries
and keys in place of the cap on scores, and rotary positions of two kinds, for layers with a window and without.
"""

from dataclasses import replace

from potstill.models import gemma2
from potstill.models.roles import Part, Role

_LAYER = {**gemma2.LAYER, "self_attn.q_norm": Role.QUERY_NORM, "self_attn.k_norm": Role.KEY_NORM}
_FIELDS = dict(gemma2.FAMILY.config_fields)
# They are written for each kind of layer.
del _FIELDS["rope_parameters"]

FAMILY = replace(
    gemma2.FAMILY,
    name="gemma3_text",
    stacks={Part.ONLY: replace(gemma2.FAMILY.stack(Part.ONLY), inside=_LAYER)},
    config_fields=_FIELDS,
    without_maps=None,
    not_cut=lambda config: (
        "its attention sees the tokens that follow too (use_bidirectional_attention), so it is no model of the next "
        "token"
        if config.use_bidirectional_attention
        else None
    ),
)
