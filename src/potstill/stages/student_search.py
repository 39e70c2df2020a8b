"""The sizes of teacher and student, and which student a recipe asks for."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PretrainedConfig, PreTrainedModel

from potstill.errors import ModelError, RecipeError
from potstill.recipe import Recipe
from potstill.records import ShapeRecord
from potstill.students import (
    Budget,
    Design,
    Pretrained,
    Shrunk,
    Trimmed,
    candidates,
    designed,
    designs_for,
    model_shape,
    student_config,
)


@dataclass(frozen=True)
class Candidate:
    """A student that could be."""

    settings: Shrunk
    config: PretrainedConfig
    shape: ShapeRecord
    flops_per_token: float
    design: str | None = None
    """The name of its design, where it has one."""


def skeleton_of(recipe: Recipe, config: PretrainedConfig, labels: Sequence[str]) -> PreTrainedModel:
    """A model of this configuration with shapes and no weights."""
    values = config.to_dict() | recipe.task.config_values(labels)
    # As everything on the meta device.
    with torch.device("meta"):
        return recipe.task.new_model(type(config).from_dict(values))


def shape_of(recipe: Recipe, config: PretrainedConfig, labels: Sequence[str]) -> ShapeRecord:
    """The size of a model of this configuration, made without weights."""
    model = skeleton_of(recipe, config, labels)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return model_shape(model.config, parameters, recipe.task.embedding_parameters(model), len(labels))


def flops_per_token(recipe: Recipe, shape: ShapeRecord) -> float:
    """Floating-point operations of a forward pass for each token of a row of `max_length`.

    Two for each weight that a token uses and that is no embedding, two for each of a language model's output layer, and
    four for each channel of each key that attention sees: half of them, on average, where it looks back only. Of
    encoder-decoders, as if each token went through both stacks.
    """
    language = recipe.task.looks_back
    keys = recipe.task.max_length * (0.5 if language else 1.0)
    body = shape.parameters - shape.embedding_parameters - (shape.idle_parameters or 0)
    head = shape.vocabulary * shape.width if language else 0
    layers = shape.layers + (shape.decoder_layers or 0)
    return 2.0 * (body + head) + 4.0 * keys * layers * (shape.query_width or shape.width)


def sized_candidates(
    recipe: Recipe,
    teacher: PretrainedConfig,
    labels: Sequence[str],
    like: Budget | Shrunk | None = None,
    vocabulary: Trimmed | None = None,
) -> list[Candidate]:
    """All candidates, the one with the most parameters first; all but their sizes is as in `like`."""
    found = []
    for settings, config in candidates(teacher, like, vocabulary):
        shape = shape_of(recipe, config, labels)
        found.append(Candidate(settings, config, shape, flops_per_token(recipe, shape)))
    return sorted(found, key=lambda each: (-each.shape.parameters, -each.shape.layers))


def designed_candidates(
    recipe: Recipe, teacher: PretrainedConfig, labels: Sequence[str], vocabulary: Trimmed | None = None
) -> list[Candidate]:
    """The designs that fit in the teacher, with the recipe's vocabulary and dropout."""
    found = []
    asked = recipe.student
    own = {} if isinstance(asked, Pretrained) else {"vocabulary": asked.vocabulary, "dropout": asked.dropout}
    for name in designs_for(teacher):
        settings = designed(teacher, Design.model_validate({"name": name, **own}))
        try:
            config = student_config(teacher, settings, vocabulary)
        except ModelError:
            # DistilBERT, for one, has no embeddings that are factorised.
            continue
        shape = shape_of(recipe, config, labels)
        found.append(Candidate(settings, config, shape, flops_per_token(recipe, shape), name))
    return found


def within(
    found: Sequence[Candidate], teacher_flops: float, *, parameters: int | None, flops_ratio: float | None
) -> list[Candidate]:
    """Those within the limits that are given."""
    return [
        each
        for each in found
        if (parameters is None or each.shape.parameters <= parameters)
        and (flops_ratio is None or teacher_flops >= flops_ratio * each.flops_per_token)
    ]


def chosen_student(
    recipe: Recipe, teacher: PretrainedConfig, labels: Sequence[str], vocabulary: Trimmed | None = None
) -> Shrunk | Pretrained:
    """The student's settings as numbers: the recipe's own, those of its design, or the largest within its budget.

    Raises:
        ModelError: a design that does not fit in the teacher; names those that do.
        RecipeError: nothing is within it; names the smallest that there is.
    """
    asked = recipe.student
    if isinstance(asked, Shrunk | Pretrained):
        return asked
    if isinstance(asked, Design):
        return designed(teacher, asked)
    found = sized_candidates(recipe, teacher, labels, asked, vocabulary)
    flops = flops_per_token(recipe, shape_of(recipe, teacher, labels))
    fitting = within(found, flops, parameters=asked.parameters, flops_ratio=asked.flops_ratio)
    if not fitting:
        least = min(found, key=lambda each: each.flops_per_token)
        raise RecipeError(
            f"student: nothing is within the budget. The smallest that is tried, {least.shape.layers} x "
            f"{least.shape.width}, has {least.shape.parameters:,} parameters ({least.shape.embedding_parameters:,} of "
            f"them embeddings) and {flops / least.flops_per_token:.1f} times fewer operations a token than the "
            "teacher. Raise the budget, or take a teacher assistant on the way."
        )
    # The one that computes most can learn most: of two with as many parameters, the one with fewer in its embeddings.
    return max(fitting, key=lambda each: (each.flops_per_token, each.shape.parameters)).settings
