"""Students of decoders: fewer layers, and perhaps a narrower stream, with heads that stay whole."""

from math import lcm
from typing import Any

from transformers import PretrainedConfig

from potstill.errors import ModelError
from potstill.models import Positions, Size, family_of
from potstill.students.sizes import Copy, Shrunk, intermediate_size, layer_map, own_values, size_of

ROWS_OF_EXPERTS = 8
"""Sizes of experts are multiples of it: torch's grouped products want rows of 16 bytes, also in half precision."""


def smaller_decoder(teacher: PretrainedConfig, student: Shrunk) -> PretrainedConfig:
    """A decoder with fewer layers, and perhaps a narrower stream.

    Its heads keep their size, so that rotary positions mean the same, and heads that share keys and values stay
    together, unless the settings name the heads of both. Heads times their size need not be the width.

    Raises:
        ModelError: sizes that make no legal model, or a teacher that is none.
    """
    family = family_of(teacher)
    whole_width, units = family.size(teacher, Size.WIDTH), family.size(teacher, Size.INTERMEDIATE)
    _require_legal(teacher, student)
    layers = size_of(student.layers, family.size(teacher, Size.LAYERS), "student.layers")
    grouped = family.size(teacher, Size.HEADS) // family.key_value_heads(teacher)
    # Where a configuration has no size of a head, heads times their size are the width.
    free = Size.HEAD in family.sizes
    unit = grouped if free or student.key_value_heads is not None else grouped * family.head_size(teacher)
    rows = ROWS_OF_EXPERTS if family.experts else 1
    width = size_of(student.width, whole_width, "student.width", unit=lcm(unit, rows))
    if student.key_value_heads is None:
        heads, size = _whole_groups(teacher, student, width), family.head_size(teacher)
        key_value_heads = heads // grouped
    else:
        heads, key_value_heads, size = _other_heads(student, student.key_value_heads, width)
        _require_other_size(teacher, size)
    intermediate = intermediate_size(student, units, (width, whole_width))
    if rows > 1:
        intermediate = _whole_rows(student, width, intermediate, (whole_width, units))
    sizes: dict[Size, Any] = {
        Size.LAYERS: layers,
        Size.WIDTH: width,
        Size.INTERMEDIATE: intermediate,
        Size.HEADS: heads,
        Size.KEY_VALUE_HEADS: key_value_heads,
        Size.HEAD: size,
        Size.DROPOUT: student.dropout,
    }
    if family.experts is not None:
        dense = family.size(teacher, Size.DENSE_INTERMEDIATE)
        sizes[Size.DENSE_INTERMEDIATE] = max(1, round(dense * intermediate / units))
        sizes[Size.EXPERTS] = _experts(teacher, student, family.experts.used)
    sizes = {each: value for each, value in sizes.items() if each in family.sizes and value is not None}
    values = own_values(teacher) | family.values(sizes) | _said_of_layers(teacher, student, layers)
    if not free:
        values.pop("head_dim", None)
    return type(teacher).from_dict(values)


def _require_legal(teacher: PretrainedConfig, student: Shrunk) -> None:
    """Raises ModelError: a teacher that is no legal model, or dropout where there is none."""
    family = family_of(teacher)
    if student.dropout is not None and Size.DROPOUT not in family.sizes:
        raise ModelError(
            f"student.dropout: a decoder ({teacher.model_type}) has none between its layers; leave it out."
        )
    size = family.head_size(teacher)
    if size % 2 and family.positions is Positions.COMPUTED:
        raise ModelError(
            f"teacher.model: its config.json makes heads of {size} channels, and rotary positions turn channels in "
            "pairs. Correct it; head_dim must be even."
        )
    if Size.HEAD not in family.sizes and getattr(teacher, "head_dim", None) not in (None, size):
        raise ModelError(
            f"teacher.model: its config.json has heads of {teacher.head_dim} channels (head_dim), and heads times "
            f"their size are not the width, which {teacher.model_type} models are not known to have here. Take another "
            "teacher."
        )


def _whole_rows(student: Shrunk, width: int, intermediate: int, whole: tuple[int, int]) -> int:
    """The units of an expert, as the nearest number that experts can be computed together with.

    Raises:
        ModelError: a width or a number of units is asked for with which they cannot.
    """
    asked = {"width": (width, whole[0]), "intermediate": (student.intermediate, whole[1])}
    for name, (size, of_teacher) in asked.items():
        if isinstance(size, int) and size != of_teacher and size % ROWS_OF_EXPERTS:
            raise ModelError(
                f"student.{name} {size}: experts are computed together by a kernel that reads rows of "
                f"{ROWS_OF_EXPERTS} numbers. Use a multiple of {ROWS_OF_EXPERTS}."
            )
    if intermediate == whole[1]:
        return intermediate
    return min(whole[1], ROWS_OF_EXPERTS * max(1, round(intermediate / ROWS_OF_EXPERTS)))


def _experts(teacher: PretrainedConfig, student: Shrunk, used: str) -> int:
    """Raises ModelError: more experts than the teacher has, or fewer than the router chooses."""
    whole = family_of(teacher).size(teacher, Size.EXPERTS)
    count, chosen = student.experts or whole, getattr(teacher, used)
    if count > whole or count < chosen:
        raise ModelError(
            f"student.experts: {count}, and the teacher has {whole}, of which its router chooses {chosen} for each "
            f"token. Set it from {chosen} to {whole}, or leave it out."
        )
    return count


def _require_other_size(teacher: PretrainedConfig, size: int) -> None:
    """Raises ModelError: rotary positions that have a factor for each pair of channels of a head, of another size."""
    whole = family_of(teacher).head_size(teacher)
    factors = (getattr(teacher, "rope_parameters", None) or {}).get("short_factor")
    if factors and size != whole:
        raise ModelError(
            f"student.key_value_heads: makes heads of {size} channels, and the teacher's rotary positions have factors "
            f"for heads of {whole} (longrope). Leave it out."
        )


def _said_of_layers(teacher: PretrainedConfig, student: Shrunk, layers: int) -> dict[str, Any]:
    """What a configuration says layer by layer, of the layers that are kept.

    Raises:
        ModelError: layers of several kinds, of which the most important ones are not known yet.
    """
    family = family_of(teacher)
    whole, kinds = family.size(teacher, Size.LAYERS), family.layer_kinds(teacher)
    if layers == whole:
        return {}
    pattern = student.init.layers if isinstance(student.init, Copy) else "spread"
    if pattern == "block_influence":
        if len(set(kinds)) > 1:
            raise ModelError(
                "student.init.layers: block_influence does not suit a teacher whose layers are of several kinds "
                f"({', '.join(sorted(set(kinds)))}). Use spread."
            )
        pattern = "first"
    chosen = layer_map(layers, whole, pattern)
    said: dict[str, Any] = {}
    if isinstance(seen := getattr(teacher, "layer_types", None), list):
        said["layer_types"] = [seen[layer] for layer in chosen]
    if family.experts is not None:
        dense = family.experts.dense_layers(teacher)
        said |= family.experts.with_dense_layers([place for place, layer in enumerate(chosen) if layer in dense])
    return said


def _whole_groups(teacher: PretrainedConfig, student: Shrunk, width: int) -> int:
    """Heads of a decoder: whole groups of those that share keys and values, as near to the width's share as can be.

    transformers wants their number to divide the width, though heads keep their own size.
    """
    family = family_of(teacher)
    whole = family.size(teacher, Size.HEADS)
    grouped = whole // family.key_value_heads(teacher)
    free = Size.HEAD in family.sizes
    size = family.head_size(teacher)
    legal = [
        heads for heads in range(grouped, whole + 1, grouped) if (width % heads == 0 if free else width == heads * size)
    ]
    if not legal and not free:
        raise ModelError(
            f"student.width {width}: {teacher.model_type} models have heads times their size as width, and the "
            f"teacher's heads have {size} channels"
            + (f" and share keys and values in groups of {grouped}" if grouped > 1 else "")
            + f". Use a multiple of {grouped * size}."
        )
    if not legal:
        raise ModelError(
            f"student.width {width}: the teacher's {whole} heads share keys and values in groups of {grouped}, and the "
            f"number of heads must divide the width. Use a multiple of {grouped}."
        )
    if student.heads is None:
        return min(legal, key=lambda heads: abs(heads - whole * width / family.size(teacher, Size.WIDTH)))
    if student.heads not in legal:
        divides = "must divide the width" if free else f"times {size}, their size, must be the width"
        raise ModelError(
            f"student.heads {student.heads}: the teacher's heads share keys and values in groups of {grouped}, and the "
            f"number of heads {divides}. At width {width} use one of {', '.join(map(str, legal))}."
        )
    return student.heads


def _other_heads(student: Shrunk, key_value_heads: int, width: int) -> tuple[int, int, int]:
    """Heads, those of keys and values, and their size, where they are others than the teacher's."""
    heads = student.heads or 0
    # Rotary positions turn channels in pairs.
    if not heads or heads % key_value_heads or width % (2 * heads):
        legal = [each for each in range(key_value_heads, width + 1, key_value_heads) if width % (2 * each) == 0]
        remedy = (
            f"At this width set student.heads to one of {', '.join(map(str, legal))}."
            if legal
            else f"There is none at this width; set it to a multiple of {2 * key_value_heads}."
        )
        raise ModelError(
            f"student.key_value_heads {key_value_heads}: expected student.heads beside it, a multiple of it that "
            f"divides the width {width} into heads of an even number of channels. {remedy}"
        )
    if isinstance(student.init, Copy):
        raise ModelError(
            "student.key_value_heads: heads other than the teacher's cannot be copied. Set student.init: "
            "{kind: random}, or leave it out."
        )
    return heads, key_value_heads, width // heads
