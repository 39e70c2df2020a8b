"""DeBERTa (He et al. 2020, arXiv:2006.03654): that of version 2 with queries, keys and values in one matrix, and
without buckets and a norm of relative positions."""

from dataclasses import replace

from potstill.models import deberta_v2
from potstill.models.family import Size
from potstill.models.roles import Part, Role

_SELF = {
    "attention.self.in_proj": Role.QUERY_KEY_VALUE_BY_HEAD,
    "attention.self.q_bias": Role.QUERY_BIAS,
    "attention.self.v_bias": Role.VALUE_BIAS,
    "attention.self.pos_q_proj": Role.POSITION_QUERY,
    "attention.self.pos_proj": Role.POSITION_KEY,
}
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
        )
    },
    sizes={size: names for size, names in deberta_v2.FAMILY.sizes.items() if size is not Size.HEAD},
    not_taken_over={
        name: deberta_v2.OF_VERSION_3[name] for name in ("relative_attention", "pos_att_type", "position_biased_input")
    },
)
