"""Students of decoders: fewer layers, and perhaps a narrower stream, with heads that stay whole."""

from transformers import PretrainedConfig

from potstill.errors import ModelError
from potstill.students.sizes import Copy, Shrunk, layer_map, own_values, size_of


def smaller_decoder(teacher: PretrainedConfig, student: Shrunk) -> PretrainedConfig:
    """A decoder with fewer layers, and perhaps a narrower stream.

    Its heads keep their size, so that rotary positions mean the same, and heads that share keys and values stay
    together, unless the settings name the heads of both. Heads times their size need not be the width.
    """
    if student.dropout is not None:
        raise ModelError(
            f"student.dropout: a decoder ({teacher.model_type}) has none between its layers; leave it out."
        )
    layers = size_of(student.layers, teacher.num_hidden_layers, "student.layers")
    grouped = teacher.num_attention_heads // teacher.num_key_value_heads
    width = size_of(student.width, teacher.hidden_size, "student.width", unit=grouped)
    if student.key_value_heads is None:
        heads, size = _whole_groups(teacher, student, width), head_size(teacher)
        key_value_heads = heads // grouped
    else:
        heads, key_value_heads, size = _other_heads(student, student.key_value_heads, width)
    intermediate = (
        max(1, round(teacher.intermediate_size * width / teacher.hidden_size))
        if student.intermediate is None
        else size_of(student.intermediate, teacher.intermediate_size, "student.intermediate")
    )
    values = own_values(teacher) | {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "intermediate_size": intermediate,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        "head_dim": size,
    }
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
    whole: int = teacher.num_attention_heads
    grouped: int = whole // teacher.num_key_value_heads
    legal = [heads for heads in range(grouped, whole + 1, grouped) if width % heads == 0]
    if not legal:
        raise ModelError(
            f"student.width {width}: the teacher's {whole} heads share keys and values in groups of {grouped}, and the "
            f"number of heads must divide the width. Use a multiple of {grouped}."
        )
    if student.heads is None:
        return min(legal, key=lambda heads: abs(heads - whole * width / teacher.hidden_size))
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
        raise ModelError(
            f"student.key_value_heads {key_value_heads}: expected student.heads beside it, a multiple of it that "
            f"divides the width {width} into heads of an even number of channels."
        )
    if isinstance(student.init, Copy):
        raise ModelError(
            "student.key_value_heads: heads other than the teacher's cannot be copied. Set student.init: "
            "{kind: random}, or leave it out."
        )
    return heads, key_value_heads, width // heads


def head_size(config: PretrainedConfig) -> int:
    """Channels of a head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
