"""The configuration of a student: its teacher's, in smaller sizes."""

from fractions import Fraction
from typing import Any

from transformers import PretrainedConfig

from potstill.errors import ModelError
from potstill.families import DECODER_FAMILIES, ENCODER_DECODERS, require_cuttable
from potstill.records import ShapeRecord
from potstill.students import encoder_decoders
from potstill.students.decoders import smaller_decoder
from potstill.students.factorised import with_factorised_embeddings
from potstill.students.layouts import in_family, intermediate_size, laid_out_alike, own_name
from potstill.students.sizes import Copy, Shrunk, own_values, size_of
from potstill.students.trimming import Trimmed
from potstill.students.vocabulary import FactorisedVocabulary


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
    if isinstance(student.vocabulary, FactorisedVocabulary):
        made = with_factorised_embeddings(made, student.vocabulary.size)
    return made if vocabulary is None else vocabulary.config(made)


def _smaller(teacher: PretrainedConfig, student: Shrunk) -> PretrainedConfig:
    require_cuttable(teacher.model_type)
    if student.key_value_heads is not None and teacher.model_type not in DECODER_FAMILIES:
        raise ModelError(
            f"student.key_value_heads: all heads of a teacher of the family {teacher.model_type!r} have keys of their "
            "own; leave it out."
        )
    if teacher.model_type in ENCODER_DECODERS:
        return _with_two_stacks(teacher, student)
    if student.decoder_layers is not None:
        raise ModelError(
            f"student.decoder_layers: a teacher of the family {teacher.model_type!r} has one stack of layers. Set "
            "student.layers alone."
        )
    if teacher.model_type in DECODER_FAMILIES:
        return smaller_decoder(teacher, student)
    head_size = teacher.hidden_size // teacher.num_attention_heads
    layers = size_of(student.layers, teacher.num_hidden_layers, "student.layers")
    width = size_of(student.width, teacher.hidden_size, "student.width", unit=1 if student.heads else head_size)
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
        intermediate = size_of(student.intermediate, intermediate_size(teacher), "student.intermediate")
    sizes: dict[str, Any] = {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": intermediate,
    }
    if student.dropout is not None:
        sizes |= {"hidden_dropout_prob": student.dropout, "attention_probs_dropout_prob": student.dropout}
    own = {own_name(field, teacher.model_type): value for field, value in sizes.items()}
    return type(teacher).from_dict(own_values(teacher) | own)


def _with_two_stacks(teacher: PretrainedConfig, student: Shrunk) -> PretrainedConfig:
    """An encoder-decoder with fewer layers in each stack, and perhaps a narrower stream, whose heads keep their size.

    T5's heads times their size need not be the width, BART's must.
    """
    encoder_decoders.require_one_number_of_heads(teacher)
    counts = encoder_decoders.layer_counts(teacher)
    asked = (student.layers, student.layers if student.decoder_layers is None else student.decoder_layers)
    names = ("layers", "layers" if student.decoder_layers is None else "decoder_layers")
    layers = [size_of(size, count, f"student.{name}") for size, count, name in zip(asked, counts, names, strict=True)]
    head_size, whole = encoder_decoders.head_size(teacher), teacher.num_attention_heads
    free = teacher.model_type == "t5"
    width = size_of(student.width, teacher.d_model, "student.width", unit=1 if free else head_size)
    heads = student.heads or max(1, round(whole * width / teacher.d_model))
    if heads > whole:
        raise ModelError(f"student.heads: {heads} is more than the teacher's {whole}; a student must not be larger.")
    if not free and heads * head_size != width:
        raise ModelError(
            f"student.width {width} is not {heads} heads of {head_size}, the teacher's size of a head. Set it to a "
            f"multiple of {head_size}, and student.heads to that multiple or not at all."
        )
    of_teacher = encoder_decoders.intermediate_size(teacher)
    intermediate = (
        max(1, round(of_teacher * width / teacher.d_model))
        if student.intermediate is None
        else size_of(student.intermediate, of_teacher, "student.intermediate")
    )
    values = own_values(teacher) | encoder_decoders.sizes(
        teacher.model_type,
        layers=(layers[0], layers[1]),
        width=width,
        heads=heads,
        intermediate=intermediate,
        dropout=student.dropout,
    )
    return type(teacher).from_dict(values)


def shape_notes(teacher: PretrainedConfig, student: Shrunk, made: PretrainedConfig) -> list[str]:
    """Where the student's shape is not exactly what was asked for, in sentences."""
    asked = {"layers": student.layers, "width": student.width, "intermediate": student.intermediate}
    of_teacher, of_student = _sizes(teacher), _sizes(made)
    if "decoder_layers" in of_teacher:
        asked["decoder_layers"] = student.layers if student.decoder_layers is None else student.decoder_layers
    found = []
    for name, size in asked.items():
        share = Fraction(size) * of_teacher[name] if isinstance(size, str) else of_student[name]
        if share != of_student[name]:
            whole, got = of_teacher[name], of_student[name]
            found.append(f"student.{name}: {size} of {whole} is {float(share):g}; made {got} instead.")
    heads = teacher.num_attention_heads * made.hidden_size / teacher.hidden_size
    if student.heads is None and heads != made.num_attention_heads:
        grouped = teacher.num_attention_heads // getattr(teacher, "num_key_value_heads", teacher.num_attention_heads)
        groups = f", in whole groups of {grouped} that share keys and values" if grouped > 1 else ""
        found.append(f"student.heads: {heads:g} would be in proportion; made {made.num_attention_heads}{groups}.")
    if (teacher.model_type, made.model_type) == ("mistral", "llama") and teacher.sliding_window is not None:
        found.append(
            f"student.family: a llama has no sliding window of {teacher.sliding_window} tokens; made "
            f"{made.max_position_embeddings} positions instead of {teacher.max_position_embeddings}."
        )
    return found


def _sizes(config: PretrainedConfig) -> dict[str, int]:
    """The sizes of which a student can be given a share."""
    if config.model_type in ENCODER_DECODERS:
        layers = dict(zip(("layers", "decoder_layers"), encoder_decoders.layer_counts(config), strict=True))
        return {**layers, "width": config.d_model, "intermediate": encoder_decoders.intermediate_size(config)}
    return {
        "layers": config.num_hidden_layers,
        "width": config.hidden_size,
        "intermediate": intermediate_size(config),
    }


def model_shape(config: PretrainedConfig, parameters: int, embedding_parameters: int, classes: int) -> ShapeRecord:
    heads = config.num_attention_heads
    apart = config.model_type in encoder_decoders.LAYER_COUNTS
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    if apart:
        head_size = encoder_decoders.head_size(config)
    key_value_width = (getattr(config, "num_key_value_heads", None) or heads) * head_size
    return ShapeRecord(
        family=config.model_type,
        layers=config.num_hidden_layers,
        decoder_layers=encoder_decoders.layer_counts(config)[1] if apart else None,
        width=config.hidden_size,
        heads=heads,
        query_width=None if heads * head_size == config.hidden_size else heads * head_size,
        key_value_width=None if key_value_width == config.hidden_size else key_value_width,
        intermediate=encoder_decoders.intermediate_size(config) if apart else intermediate_size(config),
        vocabulary=config.vocab_size,
        classes=classes,
        parameters=parameters,
        embedding_parameters=embedding_parameters,
    )
