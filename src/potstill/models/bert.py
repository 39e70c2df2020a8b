"""BERT (Devlin et al. 2018, arXiv:1810.04805), and what most encoders have in common with it."""

from potstill.models.family import Family, Kind, Positions, Size, Stack
from potstill.models.roles import Part, Role

EMBEDDINGS = {
    "embeddings.word_embeddings": Role.TOKEN_EMBEDDING,
    "embeddings.position_embeddings": Role.POSITION_EMBEDDING,
    "embeddings.token_type_embeddings": Role.TYPE_EMBEDDING,
    "embeddings.LayerNorm": Role.EMBEDDING_NORM,
}
LAYER = {
    "attention.self.query": Role.QUERY,
    "attention.self.key": Role.KEY,
    "attention.self.value": Role.VALUE,
    "attention.output.dense": Role.ATTENTION_OUT,
    "attention.output.LayerNorm": Role.ATTENTION_NORM,
    "intermediate.dense": Role.FEED_FORWARD_IN,
    "output.dense": Role.FEED_FORWARD_OUT,
    "output.LayerNorm": Role.FEED_FORWARD_NORM,
}
CONFIG_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
    "initializer_range",
    "hidden_act",
    "layer_norm_eps",
    "type_vocab_size",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout",
)

FAMILY = Family(
    name="bert",
    kind=Kind.ENCODER,
    stacks={Part.ONLY: Stack(layers="encoder.layer", attention="attention.self", inside=LAYER)},
    base="bert",
    base_modules={**EMBEDDINGS, "pooler.dense": Role.POOLER},
    outside={"classifier": Role.CLASSIFIER},
    sizes={
        Size.LAYERS: ("num_hidden_layers",),
        Size.WIDTH: ("hidden_size",),
        Size.HEADS: ("num_attention_heads",),
        Size.INTERMEDIATE: ("intermediate_size",),
        Size.DROPOUT: ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    },
    config_fields={name: name for name in CONFIG_FIELDS},
    positions=Positions.LEARNT,
    factorised_as="electra",
)
