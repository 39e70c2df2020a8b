"""ModernBERT (Warner et al. 2024, arXiv:2412.13663): an encoder of rotary positions, gated units and norms before what
reads, whose layers see the whole text or a window of it.

Of which kind a layer is, the configuration says layer by layer (`layer_types`); a student's layers keep their kind. The
first layer reads the embeddings, which have a norm, without another.
"""

from dataclasses import replace

from potstill.models import bert
from potstill.models.family import Positions, Size, Stack
from potstill.models.roles import Part, Role

_RENAMED = {
    "hidden_act": "hidden_activation",
    "layer_norm_eps": "norm_eps",
    "hidden_dropout_prob": "mlp_dropout",
    "attention_probs_dropout_prob": "attention_dropout",
}

FAMILY = replace(
    bert.FAMILY,
    name="modernbert",
    stacks={
        Part.ONLY: Stack(
            layers="layers",
            attention="attn",
            inside={
                "attn_norm": Role.ATTENTION_NORM,
                "attn.Wqkv": Role.QUERY_KEY_VALUE,
                "attn.Wo": Role.ATTENTION_OUT,
                "mlp_norm": Role.FEED_FORWARD_NORM,
                "mlp.Wi": Role.FEED_FORWARD_GATE_IN,
                "mlp.Wo": Role.FEED_FORWARD_OUT,
            },
            around={"final_norm": Role.FINAL_NORM},
            pre_norm=True,
            first_is_kept="which alone reads the stream without a norm",
        )
    },
    base="model",
    base_modules={"embeddings.tok_embeddings": Role.TOKEN_EMBEDDING, "embeddings.norm": Role.EMBEDDING_NORM},
    # Of texts and words alike the head has two layers and a norm between them.
    outside={"head.dense": Role.POOLER, "head.norm": Role.POOLER_NORM, "classifier": Role.CLASSIFIER},
    sizes={**bert.FAMILY.sizes, Size.DROPOUT: ("embedding_dropout", "attention_dropout", "mlp_dropout")},
    config_fields={name: _RENAMED.get(name, name) for name in bert.CONFIG_FIELDS},
    positions=Positions.COMPUTED,
    factorised_as=None,
    takes_token_types=False,
)
