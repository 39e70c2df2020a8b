"""Students of encoders: fewer layers, and perhaps a narrower stream, with heads that keep their size where copied."""

from typing import Any

from transformers import PretrainedConfig

from potstill.errors import ModelError
from potstill.models import Family, Part, Positions, Size, family_of
from potstill.students.sizes import Copy, Shrunk, intermediate_size, layer_map, own_values, size_of


def smaller_encoder(teacher: PretrainedConfig, student: Shrunk) -> PretrainedConfig:
    """An encoder of the student's sizes. Its heads times their size are its width."""
    family = family_of(teacher)
    of_teacher = {size: family.size(teacher, size) for size in (Size.LAYERS, Size.WIDTH, Size.INTERMEDIATE)}
    head_size = family.head_size(teacher)
    layers = size_of(student.layers, of_teacher[Size.LAYERS], "student.layers")
    width = size_of(student.width, of_teacher[Size.WIDTH], "student.width", unit=1 if student.heads else head_size)
    heads = student.heads or max(1, width // head_size)
    if width % heads:
        raise ModelError(
            f"student.width {width} does not divide into {heads} heads. Set student.heads to a divisor of it, "
            f"or the width to a multiple of {head_size}, the teacher's size of a head."
        )
    if isinstance(student.init, Copy) and width // heads != head_size:
        fits = width % head_size == 0
        remedy = f"student.heads to {width // head_size}" if fits else f"student.width to a multiple of {head_size}"
        raise ModelError(
            f"student.heads {heads} at width {width} makes heads of {width // heads}, the teacher's have "
            f"{head_size}, and copied weights would be cut across heads. Set student.init: {{kind: random}}, "
            f"or {remedy}."
        )
    _require_even_heads(family, width // heads)
    sizes: dict[Size, Any] = {
        Size.LAYERS: layers,
        Size.WIDTH: width,
        Size.HEADS: heads,
        Size.INTERMEDIATE: intermediate_size(student, of_teacher[Size.INTERMEDIATE], (width, of_teacher[Size.WIDTH])),
    }
    if student.dropout is not None:
        sizes[Size.DROPOUT] = student.dropout
    if Size.HEAD in family.sizes:
        sizes[Size.HEAD] = width // heads
    values = own_values(teacher) | family.values(sizes)
    if isinstance(kinds := values.get("layer_types"), list):
        values["layer_types"] = [kinds[layer] for layer in _chosen(family, student, layers, len(kinds))]
    return type(teacher).from_dict(values)


def _require_even_heads(family: Family, size: int) -> None:
    """Raises ModelError: rotary positions could not turn the channels of a head."""
    if family.positions is Positions.COMPUTED and size % 2:
        raise ModelError(
            f"student.heads: heads of {size} channels, and rotary positions turn channels in pairs. Set student.heads "
            "or student.width so that heads have an even number of them."
        )


def _chosen(family: Family, student: Shrunk, layers: int, whole: int) -> list[int]:
    """The teacher's layers of which a student has the kinds.

    Raises:
        ModelError: the settings may leave out the first, which must be there.
    """
    if not isinstance(student.init, Copy) or layers == whole:
        return layer_map(layers, whole, "spread")
    needed = family.stack(Part.ONLY).first_is_kept
    if needed is not None and student.init.layers in ("last", "block_influence"):
        raise ModelError(
            f"student.init.layers: {student.init.layers} can leave out the first layer of a {family.name}, {needed}. "
            "Use spread or first."
        )
    return layer_map(layers, whole, student.init.layers)
