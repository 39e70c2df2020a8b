"""Families that say the same in other words: names of sizes and parameters, and a configuration in another family.

Encoders are cut by BERT's names (`copying.py`); a family that lays its modules out alike is translated into them.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, PretrainedConfig

from potstill.errors import ModelError
from potstill.families import DECODER_FAMILIES, ENCODER_FAMILIES, POSITIONS_AFTER_PADDING

LAYOUTS = (
    frozenset({"bert", "distilbert"}),
    frozenset({"roberta", "xlm-roberta", "camembert"}),
    frozenset({"llama", "mistral"}),
)
"""Families between which weights can be copied; of all others, only within one."""

_DISTILBERT_SIZES = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
    "hidden_act": "activation",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "classifier_dropout": "seq_classif_dropout",
}
_DISTILBERT_NAMES = (
    ("distilbert.", "bert."),
    ("transformer.layer.", "encoder.layer."),
    ("attention.q_lin", "attention.self.query"),
    ("attention.k_lin", "attention.self.key"),
    ("attention.v_lin", "attention.self.value"),
    ("attention.out_lin", "attention.output.dense"),
    ("sa_layer_norm", "attention.output.LayerNorm"),
    ("output_layer_norm", "output.LayerNorm"),
    ("ffn.lin1", "intermediate.dense"),
    ("ffn.lin2", "output.dense"),
    # Both map the first token's state before the classifier; DistilBERT's goes through a ReLU, BERT's through a tanh.
    ("pre_classifier.", "bert.pooler.dense."),
)
_ELECTRA_NAMES = (
    ("electra.", "bert."),
    # The first token's state goes through a GELU there, and through a tanh in BERT.
    ("classifier.dense.", "bert.pooler.dense."),
    ("classifier.out_proj.", "classifier."),
)
_NAMES = {"distilbert": _DISTILBERT_NAMES, "electra": _ELECTRA_NAMES}
_POSITIONS, _TYPES = "bert.embeddings.position_embeddings.weight", "bert.embeddings.token_type_embeddings.weight"

_OF_ENCODERS = (
    "vocab_size",
    "max_position_embeddings",
    "initializer_range",
    "hidden_act",
    "layer_norm_eps",
    "type_vocab_size",
)
_DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob")
_OF_DECODERS = (
    "vocab_size",
    "max_position_embeddings",
    "initializer_range",
    "hidden_act",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "rope_parameters",
    "tie_word_embeddings",
    "attention_dropout",
)
_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
_NAMED = ("pad_token_id", "bos_token_id", "eos_token_id", "id2label", "label2id")


def own_name(name: str, family: str) -> str:
    """What a family's configuration calls a field of BERT's."""
    return _DISTILBERT_SIZES.get(name, name) if family == "distilbert" else name


def intermediate_size(config: PretrainedConfig) -> int:
    """Width of the feed-forward layers."""
    return int(getattr(config, own_name("intermediate_size", config.model_type)))


def laid_out_alike(one: str, other: str) -> bool:
    """Whether weights of one family can be copied into the other."""
    return one == other or any({one, other} <= layout for layout in LAYOUTS)


def common_name(parameter: str, family: str) -> str:
    """The name of a parameter in its layout's own words: BERT's for DistilBERT and ELECTRA."""
    for own, common in _NAMES.get(family, ()):
        parameter = parameter.replace(own, common)
    return parameter


def common_weights(
    weights: Mapping[str, Tensor], teacher: PretrainedConfig, student: PretrainedConfig
) -> dict[str, Tensor]:
    """The teacher's weights under common names, with what a student of another family has not, or has beside them.

    Each single text is of the first token type, so its row can as well stand in every position.
    """
    found = {common_name(name, teacher.model_type): tensor for name, tensor in weights.items()}
    if student.model_type == "distilbert" and _TYPES in found:
        found[_POSITIONS] = found[_POSITIONS] + found[_TYPES][0]
    elif teacher.model_type == "distilbert" and student.model_type == "bert":
        found[_TYPES] = torch.zeros(student.type_vocab_size, found[_POSITIONS].shape[1])
    return found


def in_family(config: PretrainedConfig, family: str) -> PretrainedConfig:
    """A model of the same sizes, of another family.

    Raises:
        ModelError: one is an encoder and the other a decoder, or the other is not known here.
    """
    encoder = config.model_type in ENCODER_FAMILIES
    kinds = (ENCODER_FAMILIES, DECODER_FAMILIES, frozenset({config.model_type}))
    kind = next(each for each in kinds if config.model_type in each)
    if family not in kind:
        raise ModelError(
            f"student.family: {family!r} does not fit a teacher of the family {config.model_type!r}; use one of "
            f"{', '.join(sorted(kind))}."
        )
    known = CONFIG_MAPPING[family]().to_dict()
    fields = (*_SIZES, *_NAMED, *((*_OF_ENCODERS, *_DROPOUTS) if encoder else _OF_DECODERS))
    values: dict[str, Any] = {}
    for field in fields:
        value = getattr(config, own_name(field, config.model_type), None)
        # A token that the teacher does not name is not the other family's usual one either.
        if (value is not None and own_name(field, family) in known) or field in _NAMED:
            values[own_name(field, family)] = value
    if encoder:
        before = getattr(config, own_name("classifier_dropout", config.model_type))
        hidden = values[own_name("hidden_dropout_prob", family)]
        values[own_name("classifier_dropout", family)] = hidden if before is None else before
        counted = [each in POSITIONS_AFTER_PADDING for each in (family, config.model_type)]
        # There the first positions are never used.
        values["max_position_embeddings"] += (counted[0] - counted[1]) * (1 + (config.pad_token_id or 0))
    if family == "mistral":
        values["sliding_window"] = None
    if family == "llama" and (window := getattr(config, "sliding_window", None)):
        # It looks back to the first token: the same as a window that none of its texts is longer than.
        values["max_position_embeddings"] = min(window, values["max_position_embeddings"])
    return CONFIG_MAPPING[family].from_dict(values)
