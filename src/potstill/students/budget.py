"""A student by what it may cost: the largest shape within a budget."""

from collections.abc import Iterator
from itertools import product
from typing import Literal

from pydantic import Field, model_validator
from transformers import PretrainedConfig

from potstill.errors import ModelError
from potstill.models import Part, Size, family_of
from potstill.students.shape import student_config
from potstill.students.sizes import Copy, CutStudent, FamilyName, Initialisation, Shrunk
from potstill.students.trimming import Trimmed
from potstill.students.vocabulary import AnyVocabulary, FullVocabulary

SHARES = ("1/1", "3/4", "2/3", "1/2", "1/3", "1/4", "1/6", "1/8")
"""Shares of the teacher's depth and width that are tried. Below an eighth a student in one step is hopeless."""


class Budget(CutStudent):
    """The largest smaller model of the teacher's family within a budget; `potstill students` lists what there is."""

    kind: Literal["budget"] = "budget"
    parameters: int | None = Field(default=None, ge=1)
    """At most so many, embeddings included."""
    flops_ratio: float | None = Field(default=None, ge=1)
    """At least so many times fewer floating-point operations a token than the teacher."""
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """As of a shrunk student."""
    vocabulary: AnyVocabulary = FullVocabulary()
    """As of a shrunk student."""
    family: FamilyName | None = Field(default=None, exclude_if=lambda family: family is None)
    """As of a shrunk student."""
    init: Initialisation = Copy()

    @model_validator(mode="after")
    def _has_a_limit(self) -> "Budget":
        if self.parameters is None and self.flops_ratio is None:
            raise ValueError("a budget needs parameters, flops_ratio, or both.")
        return self


def candidates(
    teacher: PretrainedConfig, like: Budget | Shrunk | None = None, vocabulary: Trimmed | None = None
) -> Iterator[tuple[Shrunk, PretrainedConfig]]:
    """The legal shapes at shares of the teacher's depth and width, each once, with their configurations.

    What else they have, such as a family of their own, is as in `like`.

    Raises:
        ModelError: no share makes a legal shape; says why.
    """
    own = {} if like is None else {field: getattr(like, field) for field in ("dropout", "vocabulary", "family", "init")}
    seen = set()
    refused: ModelError | None = None
    for layers, width in product(SHARES, SHARES):
        try:
            made = student_config(teacher, Shrunk.model_validate({"layers": layers, "width": width, **own}), vocabulary)
        except ModelError as error:
            refused = error
            continue
        sizes = _sizes(made)
        if sizes not in seen and sizes != _sizes(teacher):
            seen.add(sizes)
            decoder = {"decoder_layers": sizes[1]} if sizes[1] else {}
            yield Shrunk.model_validate({"layers": sizes[0], "width": sizes[2], **decoder, **own}), made
    if refused is not None and not seen:
        raise refused


def _sizes(config: PretrainedConfig) -> tuple[int, int, int]:
    """Layers, layers of the decoder where it has a stack of its own, width."""
    family = family_of(config)
    layers = family.layer_counts(config)
    return layers[family.layer_stacks[0]], layers.get(Part.DECODER, 0), family.size(config, Size.WIDTH)
