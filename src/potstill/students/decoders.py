"""Students of decoders: fewer layers, and perhaps a narrower stream, with heads that stay whole."""

from transformers import PretrainedConfig

from potstill.errors import ModelError
from potstill.models import Size, family_of
from potstill.students.sizes import Copy, Shrunk, intermediate_size, layer_map, own_values, size_of


def smaller_decoder(teacher: PretrainedConfig, student: Shrunk) -> PretrainedConfig:
    """A decoder with fewer layers, and perhaps a narrower stream.

    Its heads keep their size, so that rotary positions mean the same, and heads that share keys and values stay
    together, unless the settings name the heads of both. Heads times their size need not be the width.

    Raises:
        ModelError: sizes that make no legal model, or a teacher that is none.
    """
    family = family_of(teacher)
    whole_width, units = family.size(teacher, Size.WIDTH), family.size(teacher, Size.INTERMEDIATE)
    if student.dropout is not None:
        raise ModelError(
            f"student.dropout: a decoder ({teacher.model_type}) has none between its layers; leave it out."
        )
    if family.head_size(teacher) % 2:
        raise ModelError(
            f"teacher.model: its config.json makes heads of {family.head_size(teacher)} channels, and rotary positions "
            "turn channels in pairs. Correct it; head_dim must be even."
        )
    layers = size_of(student.layers, family.size(teacher, Size.LAYERS), "student.layers")
    grouped = family.size(teacher, Size.HEADS) // family.key_value_heads(teacher)
    width = size_of(student.width, whole_width, "student.width", unit=grouped)
    if student.key_value_heads is None:
        heads, size = _whole_groups(teacher, student, width), family.head_size(teacher)
        key_value_heads = heads // grouped
    else:
        heads, key_value_heads, size = _other_heads(student, student.key_value_heads, width)
    values = own_values(teacher) | family.values(
        {
            Size.LAYERS: layers,
            Size.WIDTH: width,
            Size.INTERMEDIATE: intermediate_size(student, units, (width, whole_width)),
            Size.HEADS: heads,
            Size.KEY_VALUE_HEADS: key_value_heads,
            Size.HEAD: size,
        }
    )
    if (
        isinstance(student.init, Copy)
        and student.init.layers == "block_influence"
        and layers < len(kinds := values.get("layer_types") or [])
    ):
        if len(set(kinds)) > 1:
            raise ModelError(
                "student.init.layers: block_influence does not suit a teacher whose layers are of several kinds "
                f"({', '.join(sorted(set(kinds)))}). Use spread."
            )
        values["layer_types"] = kinds[:layers]
        return type(teacher).from_dict(values)
    if isinstance(kinds := values.get("layer_types"), list):
        pattern = student.init.layers if isinstance(student.init, Copy) else "spread"
        values["layer_types"] = [kinds[layer] for layer in layer_map(layers, len(kinds), pattern)]
    return type(teacher).from_dict(values)


def _whole_groups(teacher: PretrainedConfig, student: Shrunk, width: int) -> int:
    """Heads of a decoder: whole groups of those that share keys and values, as near to the width's share as can be.

    transformers wants their number to divide the width, though heads keep their own size.
    """
    family = family_of(teacher)
    whole = family.size(teacher, Size.HEADS)
    grouped = whole // family.key_value_heads(teacher)
    legal = [heads for heads in range(grouped, whole + 1, grouped) if width % heads == 0]
    if not legal:
        raise ModelError(
            f"student.width {width}: the teacher's {whole} heads share keys and values in groups of {grouped}, and the "
            f"number of heads must divide the width. Use a multiple of {grouped}."
        )
    if student.heads is None:
        return min(legal, key=lambda heads: abs(heads - whole * width / family.size(teacher, Size.WIDTH)))
    if student.heads not in legal:
        raise ModelError(
            f"student.heads {student.heads}: the teacher's heads share keys and values in groups of {grouped}, and the "
            f"number of heads must divide the width. At width {width} use one of {', '.join(map(str, legal))}."
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
