"""Where the parts of a model lie, for each family that is known: its layers, their attention, the final norm.

What is cut from a teacher, pruned, or compared layer by layer finds its modules here and nowhere else.
"""

from dataclasses import dataclass
from enum import StrEnum

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from potstill.errors import ModelError


class Part(StrEnum):
    """Which stack of layers, and of a decoder with an encoder which attention."""

    ONLY = "only"
    """Of models that have one stack."""
    ENCODER = "encoder"
    DECODER = "decoder"
    """With its attention to what was written before."""
    CROSS = "cross"
    """The decoder's attention to the source."""


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
# Students of BERT whose embeddings are factorised.
FAMILIES["electra"] = _ENCODER
FAMILIES |= dict.fromkeys(DECODER_FAMILIES, _DECODER)


def _t5(stack: str, attention: str, feed_forward: str) -> Family:
    return Family(
        layers=f"{stack}.block",
        attention=attention,
        attention_out=f"{attention}.o",
        feed_forward_out=f"{feed_forward}.DenseReluDense.wo",
        first_norm="layer.0.layer_norm",
        final_norm=f"{stack}.final_layer_norm",
    )


def _bart(stack: str, attention: str) -> Family:
    return Family(
        layers=f"{stack}.layers",
        attention=attention,
        attention_out=f"{attention}.out_proj",
        feed_forward_out="fc2",
        first_norm=None,
        final_norm=None,
    )


# Models that read with one stack and write with another.
ENCODER_DECODERS: dict[str, dict[Part, Family]] = {
    "t5": {
        Part.ENCODER: _t5("encoder", "layer.0.SelfAttention", "layer.1"),
        Part.DECODER: _t5("decoder", "layer.0.SelfAttention", "layer.2"),
        Part.CROSS: _t5("decoder", "layer.1.EncDecAttention", "layer.2"),
    },
    "bart": {
        Part.ENCODER: _bart("encoder", "self_attn"),
        Part.DECODER: _bart("decoder", "self_attn"),
        Part.CROSS: _bart("decoder", "encoder_attn"),
    },
}


_ENCODERS = ("an encoder", ENCODER_FAMILIES)
_FITTING = {
    "text_classification": _ENCODERS,
    "token_classification": _ENCODERS,
    "causal_lm": ("a decoder", DECODER_FAMILIES),
    "seq2seq": ("an encoder-decoder", frozenset(ENCODER_DECODERS)),
}
"""What each task reads, as a word and as the families that can teach it and be cut for it."""


def require_cuttable(model_type: str, where: str = "teacher.model") -> None:
    """Refuse a family of which no student can be cut.

    Raises:
        ModelError: names those of which one can.
    """
    known = sorted({family for _, families in _FITTING.values() for family in families})
    if model_type not in known:
        raise ModelError(f"{where}: family {model_type!r} cannot be shrunk yet; known: {', '.join(known)}.")


def require_fitting(model_type: str, task: str, *, where: str = "teacher.model", cut: bool = True) -> None:
    """Refuse a teacher of a family that the task does not read, or, where it is to be cut, of one that is not known.

    Raises:
        ModelError: names the families that can teach this task and be cut for it.
    """
    word, families = _FITTING[task]
    if model_type in families:
        return
    fitting = f"task.kind: {task} takes {word} ({', '.join(sorted(families))})"
    others = {kind: what for kind, (what, those) in _FITTING.items() if model_type in those}
    if others:
        instead = " or ".join(others)
        raise ModelError(
            f"{where}: family {model_type!r} is {next(iter(others.values()))}, and {fitting}. Take a teacher of one of "
            f"these families, which can teach and be cut; for this one use task.kind: {instead}."
        )
    if cut:
        try:
            require_cuttable(model_type, where)
        except ModelError as error:
            raise ModelError(f"{error} Of these, {fitting}.") from None


def family_of(model: PreTrainedModel, part: Part = Part.ONLY) -> Family:
    """The family of a model, or of one of its stacks.

    Raises:
        ModelError: one whose modules are not known here.
    """
    return family_named(model.config.model_type, part)


def family_named(model_type: str, part: Part = Part.ONLY) -> Family:
    """The family of models of a type, as configurations name it.

    Raises:
        ModelError: one whose modules are not known here.
    """
    if model_type in ENCODER_DECODERS and part is not Part.ONLY:
        return ENCODER_DECODERS[model_type][part]
    if model_type not in FAMILIES:
        known = ", ".join(sorted({*FAMILIES, *ENCODER_DECODERS}))
        raise ModelError(
            f"model family {model_type!r}: where its layers lie is not known here, so losses on features cannot read "
            f"it; known: {known}."
        )
    return FAMILIES[model_type]


def most_tokens(config: PretrainedConfig) -> int | None:
    """The tokens of the longest text that a model has positions for; None where positions are computed."""
    if config.model_type in POSITIONS_AFTER_PADDING:
        return int(config.max_position_embeddings - config.pad_token_id - 1)
    learnt = {*ENCODER_FAMILIES, "electra", "bart"}
    return int(config.max_position_embeddings) if config.model_type in learnt else None


def layers_of(model: PreTrainedModel, part: Part = Part.ONLY) -> nn.ModuleList:
    """The layers of a model or of one of its stacks, the lowest first."""
    layers = model.base_model.get_submodule(family_of(model, part).layers)
    assert isinstance(layers, nn.ModuleList)
    return layers


def attention_of(model: PreTrainedModel, layer: int, part: Part = Part.ONLY) -> nn.Module:
    """The attention of a layer, counted from 0."""
    return layers_of(model, part)[layer].get_submodule(family_of(model, part).attention)


def final_norm_of(model: PreTrainedModel, part: Part = Part.ONLY) -> nn.Module | None:
    """The norm after the last layer, where the family has one."""
    name = family_of(model, part).final_norm
    return None if name is None else model.base_model.get_submodule(name)


def spread(student_layers: int, teacher_layers: int) -> list[int]:
    """The teacher's layer for each layer of the student, counted from 0, with the first and the last among them.

    Every other layer for half the depth, as DistilBERT takes them (arXiv:1910.01108).
    """
    if student_layers == 1:
        return [0]
    step = (teacher_layers - 1) / (student_layers - 1)
    return [round(layer * step) for layer in range(student_layers)]
