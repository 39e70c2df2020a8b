"""How large the student is, as numbers or as shares of its teacher."""

from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from transformers import PretrainedConfig

from potstill.errors import ModelError
from potstill.families import DECODER_FAMILIES, ENCODER_FAMILIES, spread
from potstill.records import ShapeRecord
from potstill.settings import Settings


def _share(text: str) -> str:
    try:
        share = Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f'expected a whole number or a share such as "1/2", got {text!r}') from None
    if not 0 < share <= 1:
        raise ValueError(f"a share must lie in (0, 1], got {text!r}")
    return text


Size = Annotated[int, Field(ge=1)] | Annotated[str, AfterValidator(_share)]
"""A number of its own, or a share of the teacher's such as "1/2"."""


class Random(Settings):
    """Weights drawn anew by the family's own rule."""

    kind: Literal["random"] = "random"


class Copy(Settings):
    """Weights from the teacher, cut to the student's shape (`students/copying.py`)."""

    kind: Literal["copy"] = "copy"
    layers: Literal["spread", "first", "last"] = "spread"
    """Which of the teacher's layers: spread evenly with the first and the last kept (DistilBERT's every other
    layer, arXiv:1910.01108), the first or the last ones."""
    of: Literal["teacher", "original"] = "teacher"
    """teacher: the one that is distilled, adapted where the recipe adapts it. original: as it was before, with a new
    head, which is where a born-again student of the teacher's own size starts."""
    width: Literal["slice", "project"] = "slice"
    """How a smaller width is made: keep the first channels, or project onto the principal directions of the
    teacher's word embeddings. Measured on licence notices, 3 x 192 from 6 x 384, one seed: agreement with the
    teacher 94.3 % sliced, 93.9 % projected."""


Initialisation = Annotated[Random | Copy, Field(discriminator="kind")]


class Shrunk(Settings):
    """A smaller model of the teacher's family."""

    kind: Literal["shrunk"] = "shrunk"
    layers: Size = "1/2"
    width: Size = "1/2"
    heads: int | None = Field(default=None, ge=1)
    """Attention heads; by default as many as keep the teacher's size of a head."""
    intermediate: Size | None = None
    """Width of the feed-forward layer; by default in the teacher's proportion to the width."""
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """Dropout in training; by default the teacher's."""
    init: Initialisation = Copy()


def student_config(teacher: PretrainedConfig, student: Shrunk) -> PretrainedConfig:
    """The teacher's configuration with the student's sizes.

    Raises:
        ModelError: a family that cannot be shrunk, or sizes that make no legal model.
    """
    if teacher.model_type in DECODER_FAMILIES:
        return _shallower(teacher, student)
    if teacher.model_type not in ENCODER_FAMILIES:
        known = ", ".join(sorted(ENCODER_FAMILIES | DECODER_FAMILIES))
        raise ModelError(f"teacher.model: family {teacher.model_type!r} cannot be shrunk yet; known: {known}.")
    layers = _size(student.layers, teacher.num_hidden_layers, "student.layers")
    width = _size(student.width, teacher.hidden_size, "student.width")
    head_size = teacher.hidden_size // teacher.num_attention_heads
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
    if student.intermediate is None:
        intermediate = round(teacher.intermediate_size * width / teacher.hidden_size)
    else:
        intermediate = _size(student.intermediate, teacher.intermediate_size, "student.intermediate")
    values = _own_values(teacher)
    values |= {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": intermediate,
    }
    if student.dropout is not None:
        values |= {"hidden_dropout_prob": student.dropout, "attention_probs_dropout_prob": student.dropout}
    return type(teacher).from_dict(values)


def layer_map(student_layers: int, teacher_layers: int, pattern: str) -> list[int]:
    """The teacher's layer for each layer of the student."""
    if pattern == "last":
        return list(range(teacher_layers - student_layers, teacher_layers))
    return list(range(student_layers)) if pattern == "first" else spread(student_layers, teacher_layers)


def _shallower(teacher: PretrainedConfig, student: Shrunk) -> PretrainedConfig:
    """A decoder with fewer layers of the teacher's width."""
    layers = _size(student.layers, teacher.num_hidden_layers, "student.layers")
    width = _size(student.width, teacher.hidden_size, "student.width")
    narrowed = width != teacher.hidden_size or student.heads is not None or student.intermediate is not None
    if narrowed or student.dropout is not None:
        raise ModelError(
            f"student: a decoder ({teacher.model_type}) can only be made shallower yet. Set student.width to "
            f"{teacher.hidden_size}, the teacher's, and leave out heads, intermediate and dropout."
        )
    values = _own_values(teacher) | {"num_hidden_layers": layers}
    if isinstance(kinds := values.get("layer_types"), list):
        pattern = student.init.layers if isinstance(student.init, Copy) else "spread"
        values["layer_types"] = [kinds[layer] for layer in layer_map(layers, len(kinds), pattern)]
    return type(teacher).from_dict(values)


def _own_values(teacher: PretrainedConfig) -> dict[str, Any]:
    """The teacher's configuration without what names its files."""
    values: dict[str, Any] = teacher.to_dict()
    for field in ("_name_or_path", "architectures", "dtype", "torch_dtype"):
        values.pop(field, None)
    return values


def model_shape(config: PretrainedConfig, parameters: int, embedding_parameters: int, classes: int) -> ShapeRecord:
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    key_value_width = (getattr(config, "num_key_value_heads", None) or heads) * head_size
    return ShapeRecord(
        family=config.model_type,
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        heads=heads,
        key_value_width=None if key_value_width == config.hidden_size else key_value_width,
        intermediate=config.intermediate_size,
        vocabulary=config.vocab_size,
        classes=classes,
        parameters=parameters,
        embedding_parameters=embedding_parameters,
    )


def _size(size: int | str, of_teacher: int, where: str) -> int:
    if isinstance(size, str):
        exact = Fraction(size) * of_teacher
        if exact.denominator != 1 or exact < 1:
            raise ModelError(f"{where}: {size} of the teacher's {of_teacher} is {float(exact):g}; give a whole number.")
        return int(exact)
    if size > of_teacher:
        raise ModelError(f"{where}: {size} is more than the teacher's {of_teacher}; a student must not be larger.")
    return size
