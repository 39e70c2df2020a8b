"""DistilBERT (Sanh et al. 2019, arXiv:1910.01108): BERT under other names, without token types."""

from dataclasses import replace

from potstill.models import bert
from potstill.models.family import Stack
from potstill.models.roles import Part, Role

_RENAMED = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
    "hidden_act": "activation",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "classifier_dropout": "seq_classif_dropout",
}

FAMILY = replace(
    bert.FAMILY,
    name="distilbert",
    laid_out_as="bert",
    stacks={
        Part.ONLY: Stack(
            layers="transformer.layer",
            attention="attention",
            inside={
                "attention.q_lin": Role.QUERY,
                "attention.k_lin": Role.KEY,
                "attention.v_lin": Role.VALUE,
                "attention.out_lin": Role.ATTENTION_OUT,
                "sa_layer_norm": Role.ATTENTION_NORM,
                "ffn.lin1": Role.FEED_FORWARD_IN,
                "ffn.lin2": Role.FEED_FORWARD_OUT,
                "output_layer_norm": Role.FEED_FORWARD_NORM,
            },
        )
    },
    base="distilbert",
    base_modules={name: role for name, role in bert.EMBEDDINGS.items() if role is not Role.TYPE_EMBEDDING},
    # The first token's state goes through a ReLU there, and through a tanh in BERT.
    outside={"pre_classifier": Role.POOLER, "classifier": Role.CLASSIFIER},
    sizes={size: tuple(_RENAMED[name] for name in names) for size, names in bert.FAMILY.sizes.items()},
    config_fields={name: _RENAMED.get(name, name) for name in bert.CONFIG_FIELDS},
    factorised_as=None,
    takes_token_types=False,
)
