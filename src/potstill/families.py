"""Where the parts of a model lie, for each family that is known: its layers, their attention, the final norm.

What is cut from a teacher, pruned, or compared layer by layer finds its modules here and nowhere else.
"""

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from potstill.errors import ModelError


@dataclass(frozen=True)
class Family:
    """The names of modules, from the base model (without a task's head) downwards."""

    layers: str
    attention: str
    """Within a layer: the module that calls the attention function."""
    attention_out: str
    """Within a layer: the map from all heads back to the stream."""
    feed_forward_out: str
    """Within a layer: the map from the feed-forward units back to the stream."""
    first_norm: str | None
    """Within a layer: what its input goes through before it is read."""
    final_norm: str | None
    """What the last layer's output goes through; None where each layer ends with a norm of its own."""


_ENCODER = Family(
    layers="encoder.layer",
    attention="attention.self",
    attention_out="attention.output.dense",
    feed_forward_out="output.dense",
    first_norm=None,
    final_norm=None,
)
_DISTILBERT = Family(
    layers="transformer.layer",
    attention="attention",
    attention_out="attention.out_lin",
    feed_forward_out="ffn.lin2",
    first_norm=None,
    final_norm=None,
)
_DECODER = Family(
    layers="layers",
    attention="self_attn",
    attention_out="self_attn.o_proj",
    feed_forward_out="mlp.down_proj",
    first_norm="input_layernorm",
    final_norm="norm",
)

# Encoders that keep their layers in one list beside `embeddings`, and end each with a norm.
ENCODER_FAMILIES = frozenset({"bert", "roberta", "xlm-roberta", "camembert", "distilbert"})
# Those whose positions are counted from the id of the padding token.
POSITIONS_AFTER_PADDING = frozenset({"roberta", "xlm-roberta", "camembert"})
# Those that do not take `token_type_ids`, which BERT's tokenizer gives.
WITHOUT_TOKEN_TYPES = frozenset({"distilbert"})
# Decoders that keep their layers in `model.layers[i]`, of which some can be left out.
DECODER_FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
FAMILIES = dict.fromkeys(ENCODER_FAMILIES, _ENCODER) | {"distilbert": _DISTILBERT}
FAMILIES |= dict.fromkeys(DECODER_FAMILIES, _DECODER)


def family_of(model: PreTrainedModel) -> Family:
    """The family of a model.

    Raises:
        ModelError: one whose modules are not known here.
    """
    return family_named(model.config.model_type)


def family_named(model_type: str) -> Family:
    """The family of models of a type, as configurations name it.

    Raises:
        ModelError: one whose modules are not known here.
    """
    if model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise ModelError(
            f"model family {model_type!r}: where its layers lie is not known here, so losses on features cannot read "
            f"it; known: {known}."
        )
    return FAMILIES[model_type]


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    """The layers of a model, the lowest first."""
    layers = model.base_model.get_submodule(family_of(model).layers)
    assert isinstance(layers, nn.ModuleList)
    return layers


def attention_of(model: PreTrainedModel, layer: int) -> nn.Module:
    """The attention of a layer, counted from 0."""
    return layers_of(model)[layer].get_submodule(family_of(model).attention)


def final_norm_of(model: PreTrainedModel) -> nn.Module | None:
    """The norm after the last layer, where the family has one."""
    name = family_of(model).final_norm
    return None if name is None else model.base_model.get_submodule(name)


def spread(student_layers: int, teacher_layers: int) -> list[int]:
    """The teacher's layer for each layer of the student, counted from 0, with the first and the last among them.

    Every other layer for half the depth, as DistilBERT takes them (arXiv:1910.01108).
    """
    if student_layers == 1:
        return [0]
    step = (teacher_layers - 1) / (student_layers - 1)
    return [round(layer * step) for layer in range(student_layers)]
