"""How large the student is, as numbers or as shares of its teacher."""

from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from transformers import PretrainedConfig

from potstill.errors import ModelError
from potstill.families import DECODER_FAMILIES, ENCODER_FAMILIES, TWO_STACKS, spread
from potstill.records import ShapeRecord
from potstill.settings import Settings
from potstill.students import two_stacks
from potstill.students.layouts import in_family, intermediate_size, laid_out_alike, own_name
from potstill.students.trimming import Trimmed
from potstill.students.vocabulary import AnyVocabulary, FullVocabulary


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
    layers: Literal["spread", "first", "last", "block_influence"] = "spread"
    """Which of the teacher's layers: spread evenly with the first and the last kept (DistilBERT's every other
    layer, arXiv:1910.01108), the first or the last ones, or those that change most of what they are given, on a
    sample of the training rows (ShortGPT, arXiv:2403.03853)."""
    of: Literal["teacher", "original"] = "teacher"
    """teacher: the one that is distilled, adapted where the recipe adapts it. original: as it was before, with a new
    head, which is where a born-again student of the teacher's own size starts."""
    width: Literal["slice", "project", "pruned"] = "slice"
    """How a smaller width is made: keep the first channels, project onto the principal directions of the teacher's
    word embeddings, or keep the channels, heads and feed-forward units that are most active on a sample of the training
    rows (Minitron, arXiv:2407.14679). Measured on licence notices, 3 x 192 from 6 x 384, one seed: agreement with the
    teacher 94.3 % sliced, 93.9 % projected."""

    sample: int = Field(default=256, ge=1)
    """Training rows of that sample, where importance is measured; chosen by a stable hash. Minitron takes 1,024."""

    @property
    def measures(self) -> bool:
        """Whether parts of the teacher are chosen by their importance."""
        return self.layers == "block_influence" or self.width == "pruned"


Initialisation = Annotated[Random | Copy, Field(discriminator="kind")]


FamilyName = Literal["bert", "roberta", "xlm-roberta", "camembert", "distilbert", "llama", "mistral", "qwen2", "qwen3"]


class Shrunk(Settings):
    """A smaller model of the teacher's family."""

    kind: Literal["shrunk"] = "shrunk"
    layers: Size = "1/2"
    decoder_layers: Size | None = Field(default=None, exclude_if=lambda size: size is None)
    """Of encoder-decoders; by default as `layers`, which then is that of both stacks."""
    width: Size = "1/2"
    heads: int | None = Field(default=None, ge=1)
    """Attention heads; by default as many as keep the teacher's size of a head."""
    intermediate: Size | None = None
    """Width of the feed-forward layer; by default in the teacher's proportion to the width."""
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """Dropout in training; by default the teacher's."""
    vocabulary: AnyVocabulary = FullVocabulary()
    """Which of the teacher's pieces it has."""
    family: FamilyName | None = Field(default=None, exclude_if=lambda family: family is None)
    """By default the teacher's. Another one takes copied weights where its modules correspond, as DistilBERT's do to
    BERT's, and random ones elsewhere (`init: {kind: random}`)."""
    init: Initialisation = Copy()


def student_config(teacher: PretrainedConfig, student: Shrunk, vocabulary: Trimmed | None = None) -> PretrainedConfig:
    """The teacher's configuration with the student's sizes, in the student's vocabulary.

    Raises:
        ModelError: a family that cannot be shrunk, or sizes that make no legal model.
    """
    made = _smaller(teacher, student)
    if student.family is not None and student.family != teacher.model_type:
        made = in_family(made, student.family)
        if isinstance(student.init, Copy) and not laid_out_alike(teacher.model_type, student.family):
            raise ModelError(
                f"student.init: a student of the family {student.family!r} cannot start from the weights of a teacher "
                f"of the family {teacher.model_type!r}, whose modules are others. Set student.init: {{kind: random}}."
            )
    return made if vocabulary is None else vocabulary.config(made)


def _smaller(teacher: PretrainedConfig, student: Shrunk) -> PretrainedConfig:
    if teacher.model_type in TWO_STACKS:
        return _with_two_stacks(teacher, student)
    if student.decoder_layers is not None:
        raise ModelError(
            f"student.decoder_layers: a teacher of the family {teacher.model_type!r} has one stack of layers. Set "
            "student.layers alone."
        )
    if teacher.model_type in DECODER_FAMILIES:
        return _shallower(teacher, student)
    if teacher.model_type not in ENCODER_FAMILIES:
        known = ", ".join(sorted({*ENCODER_FAMILIES, *DECODER_FAMILIES, *TWO_STACKS}))
        raise ModelError(f"teacher.model: family {teacher.model_type!r} cannot be shrunk yet; known: {known}.")
    head_size = teacher.hidden_size // teacher.num_attention_heads
    layers = _size(student.layers, teacher.num_hidden_layers, "student.layers")
    width = _size(student.width, teacher.hidden_size, "student.width", unit=1 if student.heads else head_size)
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
        intermediate = round(intermediate_size(teacher) * width / teacher.hidden_size)
    else:
        intermediate = _size(student.intermediate, intermediate_size(teacher), "student.intermediate")
    sizes: dict[str, Any] = {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": intermediate,
    }
    if student.dropout is not None:
        sizes |= {"hidden_dropout_prob": student.dropout, "attention_probs_dropout_prob": student.dropout}
    own = {own_name(field, teacher.model_type): value for field, value in sizes.items()}
    return type(teacher).from_dict(_own_values(teacher) | own)


def layer_map(student_layers: int, teacher_layers: int, pattern: str) -> list[int]:
    """The teacher's layer for each layer of the student."""
    if pattern == "last":
        return list(range(teacher_layers - student_layers, teacher_layers))
    return list(range(student_layers)) if pattern == "first" else spread(student_layers, teacher_layers)


def _shallower(teacher: PretrainedConfig, student: Shrunk) -> PretrainedConfig:
    """A decoder with fewer layers, and perhaps a narrower stream.

    Its heads keep their size, so that rotary positions mean the same, and heads that share keys and values stay
    together. Heads times their size need not be the width.
    """
    if student.dropout is not None:
        raise ModelError(
            f"student.dropout: a decoder ({teacher.model_type}) has none between its layers; leave it out."
        )
    layers = _size(student.layers, teacher.num_hidden_layers, "student.layers")
    grouped = teacher.num_attention_heads // teacher.num_key_value_heads
    width = _size(student.width, teacher.hidden_size, "student.width", unit=grouped)
    heads = _decoder_heads(teacher, student, width)
    intermediate = (
        max(1, round(teacher.intermediate_size * width / teacher.hidden_size))
        if student.intermediate is None
        else _size(student.intermediate, teacher.intermediate_size, "student.intermediate")
    )
    values = _own_values(teacher) | {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "intermediate_size": intermediate,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // grouped,
        "head_dim": _head_size(teacher),
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


def _with_two_stacks(teacher: PretrainedConfig, student: Shrunk) -> PretrainedConfig:
    """An encoder-decoder with fewer layers in each stack, and perhaps a narrower stream, whose heads keep their size.

    T5's heads times their size need not be the width, BART's must.
    """
    if isinstance(student.init, Copy) and student.init.measures:
        raise ModelError(
            f"student.init: importance is not measured in encoder-decoders ({teacher.model_type}) yet. Use layers: "
            "spread, first or last, and width: slice or project."
        )
    two_stacks.require_one_number_of_heads(teacher)
    counts = two_stacks.layer_counts(teacher)
    asked = (student.layers, student.layers if student.decoder_layers is None else student.decoder_layers)
    names = ("layers", "layers" if student.decoder_layers is None else "decoder_layers")
    layers = [_size(size, count, f"student.{name}") for size, count, name in zip(asked, counts, names, strict=True)]
    head_size, whole = two_stacks.head_size(teacher), teacher.num_attention_heads
    free = teacher.model_type == "t5"
    width = _size(student.width, teacher.d_model, "student.width", unit=1 if free else head_size)
    heads = student.heads or max(1, round(whole * width / teacher.d_model))
    if heads > whole:
        raise ModelError(f"student.heads: {heads} is more than the teacher's {whole}; a student must not be larger.")
    if not free and heads * head_size != width:
        raise ModelError(
            f"student.width {width} is not {heads} heads of {head_size}, the teacher's size of a head. Set it to a "
            f"multiple of {head_size}, and student.heads to that multiple or not at all."
        )
    of_teacher = two_stacks.intermediate_size(teacher)
    intermediate = (
        max(1, round(of_teacher * width / teacher.d_model))
        if student.intermediate is None
        else _size(student.intermediate, of_teacher, "student.intermediate")
    )
    values = _own_values(teacher) | two_stacks.sizes(
        teacher.model_type,
        layers=(layers[0], layers[1]),
        width=width,
        heads=heads,
        intermediate=intermediate,
        dropout=student.dropout,
    )
    return type(teacher).from_dict(values)


def _decoder_heads(teacher: PretrainedConfig, student: Shrunk, width: int) -> int:
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


def _head_size(config: PretrainedConfig) -> int:
    """Channels of a head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def shape_notes(teacher: PretrainedConfig, student: Shrunk, made: PretrainedConfig) -> list[str]:
    """Where the student's shape is not exactly what was asked for, in sentences."""
    found = []
    asked = (
        ("layers", student.layers, teacher.num_hidden_layers, made.num_hidden_layers),
        ("width", student.width, teacher.hidden_size, made.hidden_size),
    )
    for name, size, whole, got in asked:
        if isinstance(size, str) and Fraction(size) * whole != got:
            found.append(f"student.{name}: {size} of {whole} is {float(Fraction(size) * whole):g}; made {got} instead.")
    if teacher.model_type in DECODER_FAMILIES and student.heads is None:
        share = teacher.num_attention_heads * made.hidden_size / teacher.hidden_size
        if share != made.num_attention_heads:
            grouped = teacher.num_attention_heads // teacher.num_key_value_heads
            found.append(
                f"student.heads: {share:g} would be in proportion; made {made.num_attention_heads}, in whole groups of "
                f"{grouped} that share keys and values."
            )
    return found


def _own_values(teacher: PretrainedConfig) -> dict[str, Any]:
    """The teacher's configuration without what names its files."""
    values: dict[str, Any] = teacher.to_dict()
    for field in ("_name_or_path", "architectures", "dtype", "torch_dtype"):
        values.pop(field, None)
    return values


def model_shape(config: PretrainedConfig, parameters: int, embedding_parameters: int, classes: int) -> ShapeRecord:
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    apart = config.model_type in two_stacks.LAYER_COUNTS
    key_value_width = (getattr(config, "num_key_value_heads", None) or heads) * head_size
    return ShapeRecord(
        family=config.model_type,
        layers=config.num_hidden_layers,
        decoder_layers=two_stacks.layer_counts(config)[1] if apart else None,
        width=config.hidden_size,
        heads=heads,
        key_value_width=None if key_value_width == config.hidden_size else key_value_width,
        intermediate=two_stacks.intermediate_size(config) if apart else intermediate_size(config),
        vocabulary=config.vocab_size,
        classes=classes,
        parameters=parameters,
        embedding_parameters=embedding_parameters,
    )


def _size(size: int | str, of_teacher: int, where: str, *, unit: int = 1) -> int:
    """A number as it is; a share as the nearest multiple of `unit`, which is at least one of them."""
    if isinstance(size, str):
        return unit * max(1, round(Fraction(size) * of_teacher / unit))
    if size > of_teacher:
        raise ModelError(f"{where}: {size} is more than the teacher's {of_teacher}; a student must not be larger.")
    return size
