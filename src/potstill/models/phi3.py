"""Phi-3 and Phi-4-mini (Abdin et al. 2024, arXiv:2404.14219): Llama with queries, keys and values in one matrix, and
gates and units of the feed-forward layer in another.

Rotary positions may turn a part of a head's channels, and by two lists of factors for short and long texts (longrope,
Ding et al. 2024, arXiv:2402.13753): they are of a head's size, which students keep.
"""

from dataclasses import replace

from potstill.models import llama
from potstill.models.family import Size
from potstill.models.roles import Part, Role

_LAYER = {
    "self_attn.qkv_proj": Role.QUERY_KEY_VALUE,
    "self_attn.o_proj": Role.ATTENTION_OUT,
    "input_layernorm": Role.ATTENTION_NORM,
    "mlp.gate_up_proj": Role.FEED_FORWARD_GATE_IN,
    "mlp.down_proj": Role.FEED_FORWARD_OUT,
    "post_attention_layernorm": Role.FEED_FORWARD_NORM,
}
# Heads times their size are the width. No other family turns channels as its rotary positions say.
_SIZES: dict[Size, tuple[str, ...]] = {
    size: names for size, names in llama.FAMILY.sizes.items() if size is not Size.HEAD
}
_FIELDS = {name: own for name, own in llama.FAMILY.config_fields.items() if name not in ("head_dim", "rope_parameters")}

FAMILY = replace(
    llama.FAMILY,
    name="phi3",
    stacks={Part.ONLY: replace(llama.STACK, inside=_LAYER)},
    sizes={**_SIZES, Size.DROPOUT: ("resid_pdrop", "attention_dropout")},
    config_fields=_FIELDS,
)
