"""Students of encoder-decoders: fewer layers in each stack, and perhaps a narrower stream."""

from typing import Any

from transformers import PretrainedConfig

from potstill.errors import ModelError
from potstill.models import Size, family_of
from potstill.students.sizes import Shrunk, intermediate_size, own_values, size_of


def smaller_encoder_decoder(teacher: PretrainedConfig, student: Shrunk) -> PretrainedConfig:
    """An encoder-decoder with fewer layers in each stack, and perhaps a narrower stream, whose heads keep their size.

    Heads times their size must be the width, where the family's configuration has no size of a head.
    """
    _require_one_number(teacher)
    family = family_of(teacher)
    counts = family.layer_counts(teacher).values()
    asked = (student.layers, student.layers if student.decoder_layers is None else student.decoder_layers)
    names = ("layers", "layers" if student.decoder_layers is None else "decoder_layers")
    layers = [size_of(size, count, f"student.{name}") for size, count, name in zip(asked, counts, names, strict=True)]
    head_size, whole = family.head_size(teacher), family.size(teacher, Size.HEADS)
    of_teacher, units = family.size(teacher, Size.WIDTH), family.size(teacher, Size.INTERMEDIATE)
    free = Size.HEAD in family.sizes
    width = size_of(student.width, of_teacher, "student.width", unit=1 if free else head_size)
    heads = student.heads or max(1, round(whole * width / of_teacher))
    if heads > whole:
        raise ModelError(f"student.heads: {heads} is more than the teacher's {whole}; a student must not be larger.")
    if not free and heads * head_size != width:
        raise ModelError(
            f"student.width {width} is not {heads} heads of {head_size}, the teacher's size of a head. Set it to a "
            f"multiple of {head_size}, and student.heads to that multiple or not at all."
        )
    sizes: dict[Size, Any] = {
        Size.LAYERS: layers[0],
        Size.DECODER_LAYERS: layers[1],
        Size.WIDTH: width,
        Size.HEADS: heads,
        Size.INTERMEDIATE: intermediate_size(student, units, (width, of_teacher)),
    }
    if student.dropout is not None:
        sizes[Size.DROPOUT] = student.dropout
    return type(teacher).from_dict(own_values(teacher) | family.values(sizes))


def _require_one_number(config: PretrainedConfig) -> None:
    """Raises ModelError: encoder and decoder differ in heads or feed-forward width, which nothing here knows."""
    sizes = family_of(config).sizes
    for first, *others in (sizes[Size.HEADS], sizes[Size.INTERMEDIATE]):
        for other in others:
            values = getattr(config, first), getattr(config, other)
            if values[0] != values[1]:
                raise ModelError(
                    f"teacher.model: {first} is {values[0]} and {other} {values[1]}; a teacher whose stacks differ in "
                    "these cannot be shrunk yet."
                )
