"""Qwen3 (Qwen Team 2025, arXiv:2505.09388): Llama's modules, with a norm within each head's queries and keys."""

from dataclasses import replace

from potstill.models import llama
from potstill.models.roles import Part, Role

_LAYER = {**llama.LAYER, "self_attn.q_norm": Role.QUERY_NORM, "self_attn.k_norm": Role.KEY_NORM}

FAMILY = replace(llama.FAMILY, name="qwen3", stacks={Part.ONLY: replace(llama.STACK, inside=_LAYER)})
