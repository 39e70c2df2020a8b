"""The families of models that are known, each in a file of its own, and what is asked of a model of one of them.

To add a family, write its file and list it in `_LISTED`.
"""

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from potstill.errors import ModelError
from potstill.models import (
    bart,
    bert,
    camembert,
    deberta,
    deberta_v2,
    distilbert,
    electra,
    gemma2,
    gemma3_text,
    gpt2,
    granite,
    llama,
    marian,
    mistral,
    modernbert,
    mt5,
    olmo2,
    phi3,
    qwen2,
    qwen3,
    qwen3_moe,
    roberta,
    t5,
    xlm_roberta,
)
from potstill.models.family import Family, Gain, Kind, OwnAttention, Positions, Size, Stack
from potstill.models.roles import Axis, Part, Role, Slot

# In this order they stand in the JSON schema of recipes.
_LISTED = (
    bert.FAMILY,
    roberta.FAMILY,
    xlm_roberta.FAMILY,
    camembert.FAMILY,
    distilbert.FAMILY,
    electra.FAMILY,
    deberta.FAMILY,
    deberta_v2.FAMILY,
    modernbert.FAMILY,
    llama.FAMILY,
    mistral.FAMILY,
    qwen2.FAMILY,
    qwen3.FAMILY,
    qwen3_moe.FAMILY,
    gemma2.FAMILY,
    gemma3_text.FAMILY,
    phi3.FAMILY,
    granite.FAMILY,
    olmo2.FAMILY,
    gpt2.FAMILY,
    t5.FAMILY,
    mt5.FAMILY,
    bart.FAMILY,
    marian.FAMILY,
)
FAMILIES = {family.name: family for family in _LISTED}

__all__ = [
    "FAMILIES",
    "Axis",
    "Family",
    "Gain",
    "Kind",
    "OwnAttention",
    "Part",
    "Positions",
    "Role",
    "Size",
    "Slot",
    "Stack",
    "attention_of",
    "beside_first_of",
    "family_named",
    "family_of",
    "final_norm_of",
    "is_a",
    "is_encoder_decoder",
    "layers_of",
    "most_tokens",
    "spread",
    "stack_of",
    "teaching",
]


def family_named(model_type: str) -> Family:
    """The family of models of a type, as configurations name it.

    Raises:
        ModelError: one that is not known here.
    """
    if model_type not in FAMILIES:
        raise ModelError(
            f"model family {model_type!r}: where its layers lie is not known here, so losses on features cannot read "
            f"it; known: {', '.join(sorted(FAMILIES))}."
        )
    return FAMILIES[model_type]


def family_of(config: PretrainedConfig) -> Family:
    """The family of a configuration; raises as `family_named`."""
    return family_named(config.model_type)


def is_a(kind: Kind, model_type: str) -> bool:
    """Whether models of a type are of this kind; of one that is not known here they are of none."""
    return model_type in FAMILIES and FAMILIES[model_type].kind is kind


def is_encoder_decoder(model_type: str) -> bool:
    """Whether models of a type read with one stack and write with another."""
    return is_a(Kind.ENCODER_DECODER, model_type)


def teaching(kind: Kind) -> list[str]:
    """The families of a kind that can teach and be cut, by name."""
    return sorted(name for name, family in FAMILIES.items() if family.kind is kind and family.teaches)


def most_tokens(config: PretrainedConfig) -> int | None:
    """The tokens of the longest text that a model has positions for; None where positions are computed, or the family
    is not known here, as that of one of several teachers need not be."""
    family = FAMILIES.get(config.model_type)
    return None if family is None else family.most_tokens(config)


def stack_of(model: PreTrainedModel, part: Part = Part.ONLY) -> Stack:
    """Where the parts of a stack lie.

    Raises:
        ModelError: a family that is not known here, or that has no such stack.
    """
    return family_of(model.config).stack(part)


def layers_of(model: PreTrainedModel, part: Part = Part.ONLY) -> nn.ModuleList:
    """The layers of a model or of one of its stacks, the lowest first."""
    layers = model.base_model.get_submodule(stack_of(model, part).layers)
    assert isinstance(layers, nn.ModuleList)
    return layers


def attention_of(model: PreTrainedModel, layer: int, part: Part = Part.ONLY) -> nn.Module:
    """The attention of a layer, counted from 0."""
    return layers_of(model, part)[layer].get_submodule(stack_of(model, part).attention)


def final_norm_of(model: PreTrainedModel, part: Part = Part.ONLY) -> nn.Module | None:
    """The norm after the last layer, where the family has one."""
    name = stack_of(model, part).final_norm
    return None if name is None else model.base_model.get_submodule(name)


def beside_first_of(model: PreTrainedModel, part: Part = Part.ONLY) -> nn.Module | None:
    """What the first layer's output goes through, where the model has it."""
    name = stack_of(model, part).beside_first
    return None if name is None else dict(model.base_model.named_modules()).get(name)


def spread(student_layers: int, teacher_layers: int) -> list[int]:
    """The teacher's layer for each layer of the student, counted from 0, with the first and the last among them.

    Every other layer for half the depth, as DistilBERT takes them (arXiv:1910.01108).
    """
    if student_layers == 1:
        return [0]
    step = (teacher_layers - 1) / (student_layers - 1)
    return [round(layer * step) for layer in range(student_layers)]
