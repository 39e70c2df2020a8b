"""Granite 3 (IBM 2024): Llama's modules, with four multipliers (maximal update parametrisation, arXiv:2203.03466).

Of embeddings, attention, what layers add, and logits: numbers of the configuration, which students keep.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from potstill.models import llama


def _said_by_sizes(values: Mapping[str, Any]) -> Mapping[str, Any]:
    # By default transformers multiplies scores by one, whatever the size of a head.
    return {"attention_multiplier": float(values["head_dim"]) ** -0.5}


FAMILY = replace(llama.FAMILY, name="granite", said_by_sizes=_said_by_sizes)
