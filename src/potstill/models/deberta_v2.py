"""DeBERTa of the versions 2 and 3 (He et al. 2021, arXiv:2111.09543): BERT's layers, whose attention adds scores of
content and of relative position.

All layers read one matrix of embeddings of relative positions, through projections of their own or through those of
their content. The largest of version 2 have a convolution beside the first layer.
"""

from dataclasses import replace

from torch import Tensor, nn
from transformers import PretrainedConfig

from potstill.models import bert
from potstill.models.family import OwnAttention, Positions, Size, Stack
from potstill.models.roles import Part, Role

WIDTHS = ("hidden_size", "pooler_hidden_size", "embedding_size")
"""The pooler is as wide as what it reads, and so are the embeddings, but for those of which nothing is cut."""
LAYER = {
    **{name: role for name, role in bert.LAYER.items() if ".self." not in name},
    "attention.self.query_proj": Role.QUERY,
    "attention.self.key_proj": Role.KEY,
    "attention.self.value_proj": Role.VALUE,
    "attention.self.pos_query_proj": Role.POSITION_QUERY,
    "attention.self.pos_key_proj": Role.POSITION_KEY,
}


def by_heads(channels: Tensor, heads: int) -> Tensor:
    """Channels of all heads as rows x heads x length x size."""
    rows, length, _ = channels.shape
    return channels.view(rows, length, heads, -1).transpose(1, 2)


def heads_of(attention: nn.Module) -> int:
    heads = attention.num_attention_heads
    assert isinstance(heads, int)
    return heads


def _vectors(attention: nn.Module, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    made = (attention.get_submodule(f"{each}_proj")(states) for each in ("query", "key", "value"))
    query, key, value = (by_heads(channels, heads_of(attention)) for channels in made)
    return query, key, value


STACK = Stack(
    layers="encoder.layer",
    attention="attention.self",
    inside=LAYER,
    around={
        "encoder.rel_embeddings": Role.RELATIVE_EMBEDDING,
        "encoder.LayerNorm": Role.RELATIVE_NORM,
        "encoder.conv.conv": Role.CONVOLUTION,
        "encoder.conv.LayerNorm": Role.CONVOLUTION_NORM,
    },
    beside_first="encoder.conv",
    own_attention=OwnAttention("attention.self.dropout", _vectors),
)
OF_VERSION_3 = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
}
"""What makes a DeBERTa of another family's student: without, transformers makes a BERT under this name."""


def not_cut(config: PretrainedConfig) -> str | None:
    """Why no student can be cut of a model; None where one can."""
    if getattr(config, "embedding_size", config.hidden_size) != config.hidden_size:
        return "its embeddings are factorised (embedding_size)"
    if getattr(config, "conv_kernel_size", 0) > 0 and getattr(config, "conv_groups", 1) > 1:
        return "its convolution is of channels in groups (conv_groups)"
    return "its heads are mixed (talking_head)" if getattr(config, "talking_head", False) else None


FAMILY = replace(
    bert.FAMILY,
    name="deberta-v2",
    stacks={Part.ONLY: STACK},
    base="deberta",
    base_modules=bert.EMBEDDINGS,
    outside={"pooler.dense": Role.POOLER, "classifier": Role.CLASSIFIER},
    sizes={**bert.FAMILY.sizes, Size.WIDTH: WIDTHS, Size.HEAD: ("attention_head_size",)},
    config_fields={**bert.FAMILY.config_fields, "classifier_dropout": "cls_dropout"},
    positions=Positions.LEARNT_WHERE_SAID,
    not_taken_over=OF_VERSION_3,
    factorised_as=None,
    not_cut=not_cut,
)
