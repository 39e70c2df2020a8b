"""DeBERTa (He et al. 2020, arXiv:2006.03654): that of version 2 with queries, keys and values in one matrix, and
without buckets and a norm of relative positions."""

from dataclasses import replace

from torch import Tensor, nn

from potstill.models import deberta_v2
from potstill.models.family import OwnAttention, Size
from potstill.models.roles import Part, Role

_SELF = {
    "attention.self.in_proj": Role.QUERY_KEY_VALUE_BY_HEAD,
    "attention.self.q_bias": Role.QUERY_BIAS,
    "attention.self.v_bias": Role.VALUE_BIAS,
    "attention.self.pos_q_proj": Role.POSITION_QUERY,
    "attention.self.pos_proj": Role.POSITION_KEY,
}


def _vectors(attention: nn.Module, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    heads = deberta_v2.heads_of(attention)
    query, key, value = deberta_v2.by_heads(attention.get_submodule("in_proj")(states), heads).chunk(3, dim=-1)
    query_bias, value_bias = (attention.get_parameter(name).view(heads, 1, -1) for name in ("q_bias", "v_bias"))
    return query + query_bias, key, value + value_bias


_LAYER = {name: role for name, role in deberta_v2.LAYER.items() if ".self." not in name}

FAMILY = replace(
    deberta_v2.FAMILY,
    name="deberta",
    stacks={
        Part.ONLY: replace(
            deberta_v2.STACK,
            inside=_LAYER | _SELF,
            around={"encoder.rel_embeddings": Role.RELATIVE_EMBEDDING},
            beside_first=None,
            own_attention=OwnAttention("attention.self.dropout", _vectors),
        )
    },
    sizes={size: names for size, names in deberta_v2.FAMILY.sizes.items() if size is not Size.HEAD},
    not_taken_over={
        name: deberta_v2.OF_VERSION_3[name] for name in ("relative_attention", "pos_att_type", "position_biased_input")
    },
)
