"""The configuration of a student: its teacher's, in smaller sizes."""

from fractions import Fraction

from transformers import PretrainedConfig

from potstill.errors import ModelError
from potstill.models import FAMILIES, Kind, Part, Size, family_of
from potstill.models.fitting import require_cuttable
from potstill.records import ShapeRecord
from potstill.students.decoders import smaller_decoder
from potstill.students.encoder_decoders import smaller_encoder_decoder
from potstill.students.encoders import smaller_encoder
from potstill.students.factorised import with_factorised_embeddings
from potstill.students.layouts import in_family, laid_out_alike, lost_window
from potstill.students.sizes import Copy, Shrunk
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


_SMALLER = {
    Kind.ENCODER: smaller_encoder,
    Kind.DECODER: smaller_decoder,
    Kind.ENCODER_DECODER: smaller_encoder_decoder,
}


def _smaller(teacher: PretrainedConfig, student: Shrunk) -> PretrainedConfig:
    require_cuttable(teacher.model_type)
    family = family_of(teacher)
    kind = family.kind
    if (reason := family.not_cut(teacher)) is not None:
        raise ModelError(f"teacher.model: no student can be cut of this {family.name} model: {reason}.")
    if student.experts is not None and family.experts is None:
        raise ModelError(f"student.experts: models of the family {teacher.model_type!r} have none; leave it out.")
    if student.key_value_heads is not None and Size.KEY_VALUE_HEADS not in family.sizes:
        raise ModelError(
            f"student.key_value_heads: all heads of a teacher of the family {teacher.model_type!r} have keys of their "
            "own; leave it out."
        )
    if student.decoder_layers is not None and kind is not Kind.ENCODER_DECODER:
        raise ModelError(
            f"student.decoder_layers: a teacher of the family {teacher.model_type!r} has one stack of layers. Set "
            "student.layers alone."
        )
    return _SMALLER[kind](teacher, student)


def shape_notes(teacher: PretrainedConfig, student: Shrunk, made: PretrainedConfig) -> list[str]:
    """Where the student's shape is not exactly what was asked for, in sentences."""
    asked = {"layers": student.layers, "width": student.width, "intermediate": student.intermediate}
    of_teacher, of_student = _sizes(teacher), _sizes(made)
    if Size.DECODER_LAYERS in of_teacher:
        asked["decoder_layers"] = student.layers if student.decoder_layers is None else student.decoder_layers
    found = []
    for name, size in asked.items():
        whole, got = of_teacher[Size(name)], of_student[Size(name)]
        share = Fraction(size) * whole if isinstance(size, str) else got
        if share != got:
            found.append(f"student.{name}: {size} of {whole} is {float(share):g}; made {got} instead.")
    family = family_of(teacher)
    whole_heads, own_heads = family.size(teacher, Size.HEADS), family_of(made).size(made, Size.HEADS)
    heads = whole_heads * of_student[Size.WIDTH] / of_teacher[Size.WIDTH]
    if student.heads is None and heads != own_heads:
        grouped = whole_heads // family.key_value_heads(teacher)
        groups = f", in whole groups of {grouped} that share keys and values" if grouped > 1 else ""
        found.append(f"student.heads: {heads:g} would be in proportion; made {own_heads}{groups}.")
    sizes = family_of(made).head_size(made), family.head_size(teacher)
    if student.heads is None and sizes[0] != sizes[1]:
        found.append(f"student.heads: {own_heads} of {sizes[0]} channels are made; the teacher's have {sizes[1]}.")
    if (window := lost_window(teacher, made.to_dict())) is not None:
        found.append(
            f"student.family: a {made.model_type} has no sliding window of {window} tokens; made "
            f"{made.max_position_embeddings} positions instead of {teacher.max_position_embeddings}."
        )
    return found


def _sizes(config: PretrainedConfig) -> dict[Size, int]:
    """The sizes of which a student can be given a share."""
    family = family_of(config)
    shared = (Size.LAYERS, Size.DECODER_LAYERS, Size.WIDTH, Size.INTERMEDIATE)
    return {size: family.size(config, size) for size in shared if size in family.sizes}


def model_shape(config: PretrainedConfig, parameters: int, embedding_parameters: int, classes: int) -> ShapeRecord:
    """The size of a model.

    Raises:
        ModelError: a family that is not known here, whose configuration does not have the usual names.
    """
    if config.model_type not in FAMILIES:
        return _shape_by_usual_names(config, parameters, embedding_parameters, classes)
    family = family_of(config)
    width, heads, head_size = family.size(config, Size.WIDTH), family.size(config, Size.HEADS), family.head_size(config)
    key_value_width = family.key_value_heads(config) * head_size
    layers = family.layer_counts(config)
    return ShapeRecord(
        family=config.model_type,
        layers=layers[family.layer_stacks[0]],
        decoder_layers=layers.get(Part.DECODER),
        width=width,
        heads=heads,
        query_width=None if heads * head_size == width else heads * head_size,
        key_value_width=None if key_value_width == width else key_value_width,
        intermediate=family.size(config, Size.INTERMEDIATE),
        vocabulary=config.vocab_size,
        classes=classes,
        parameters=parameters,
        embedding_parameters=embedding_parameters,
        idle_parameters=family.idle_parameters(config),
    )


_USUAL = ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size")
"""By these names, configurations of transformers give their sizes, whatever they call them in their files."""


def _shape_by_usual_names(
    config: PretrainedConfig, parameters: int, embedding_parameters: int, classes: int
) -> ShapeRecord:
    text = config.get_text_config()
    if missing := [name for name in _USUAL if getattr(text, name, None) is None]:
        raise ModelError(
            f"model family {config.model_type!r}: its configuration has no {missing[0]}, so its sizes are not known. "
            "Take a model of another family."
        )
    layers, width, heads, vocabulary = (int(getattr(text, name)) for name in _USUAL)
    head_size = getattr(text, "head_dim", None) or width // heads
    keys = (getattr(text, "num_key_value_heads", None) or heads) * head_size
    return ShapeRecord(
        family=config.model_type,
        layers=layers,
        width=width,
        heads=heads,
        query_width=None if heads * head_size == width else heads * head_size,
        key_value_width=None if keys == width else keys,
        # GPT-2's habit, where a configuration says nothing.
        intermediate=getattr(text, "intermediate_size", None) or 4 * width,
        vocabulary=vocabulary,
        classes=classes,
        parameters=parameters,
        embedding_parameters=embedding_parameters,
    )
