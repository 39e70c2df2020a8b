"""Qwen3 with experts (Qwen Team 2025, arXiv:2505.09388): Qwen3, in whose feed-forward layers a router chooses experts.

The experts of a layer lie in two tensors. A student keeps all of them unless it is told otherwise, each with fewer
units. What balances the use of experts is a loss of the model's own, which nothing here asks for: a teacher is frozen,
and a student learns to route from what it is taught.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from transformers import PretrainedConfig

from potstill.models import llama, qwen3
from potstill.models.family import Experts, Size
from potstill.models.roles import Part, Role

_LAYER = {
    **qwen3.FAMILY.stack(Part.ONLY).inside,
    "mlp.gate": Role.ROUTER,
    "mlp.experts.gate_up_proj": Role.EXPERTS_GATE_IN,
    "mlp.experts.down_proj": Role.EXPERTS_OUT,
}


def _dense_layers(config: PretrainedConfig) -> Collection[int]:
    step, listed = config.decoder_sparse_step, config.mlp_only_layers or ()
    return [
        layer
        for layer in range(config.num_hidden_layers)
        if layer in listed or not config.num_experts or (layer + 1) % step
    ]


def _with_dense_layers(layers: Collection[int]) -> Mapping[str, Any]:
    return {"decoder_sparse_step": 1, "mlp_only_layers": sorted(layers)}


FAMILY = replace(
    qwen3.FAMILY,
    name="qwen3_moe",
    stacks={Part.ONLY: replace(llama.STACK, inside=_LAYER)},
    sizes={
        **llama.FAMILY.sizes,
        Size.INTERMEDIATE: ("moe_intermediate_size",),
        Size.DENSE_INTERMEDIATE: ("intermediate_size",),
        # transformers writes the second, and reads either.
        Size.EXPERTS: ("num_experts", "num_local_experts"),
    },
    of_others=False,
    experts=Experts("num_experts_per_tok", _dense_layers, _with_dense_layers),
)
