"""Which stack of layers a loss on features reads, of models that have two, and whether it can read it."""

from collections.abc import Sequence
from typing import Literal

from potstill.errors import RecipeError
from potstill.losses.model_shapes import Shapes
from potstill.models import Part, family_named, is_encoder_decoder
from potstill.records import ShapeRecord

Stack = Literal["encoder", "decoder"]
Looking = Literal["encoder", "decoder", "cross"]


def loss_name(kind: str, of: str | None) -> str:
    """A loss by its kind and stack: of each pair a recipe can list one."""
    return kind if of is None else f"{kind}_{of}"


def part_of(of: Looking | None, shapes: Shapes, loss: str, known: Sequence[str], *, setting: str = "of") -> Part:
    """The stack that is compared, which a setting of the loss names.

    Raises:
        RecipeError: none is named of a model that has two, or one is named of a model that has not.
    """
    family = shapes.teacher.family
    encoder_decoder = is_encoder_decoder(family)
    if encoder_decoder and of is None:
        raise RecipeError(
            f"losses: {loss} does not say what it reads of a model of two stacks ({family}). Set its {setting} to "
            f"one of {', '.join(known)}; list it once for each."
        )
    if not encoder_decoder and of is not None:
        raise RecipeError(
            f"losses: {loss}.{setting} is {of}, and a model of the family {family!r} has one stack. Drop it."
        )
    return Part.ONLY if of is None else Part(of)


def require_maps(shapes: Shapes, loss: str) -> None:
    """Refuse a loss on attention between models whose attention cannot be read.

    Raises:
        RecipeError: says of which of the two, and why.
    """
    for whose, shape in (("student", shapes.student), ("teacher", shapes.teacher)):
        if (reason := family_named(shape.family).without_maps) is not None:
            raise RecipeError(
                f"losses: {loss} reads the attention of the {whose}, a {shape.family} model, which cannot be read: "
                f"{reason}. Drop it, or use hidden_states."
            )


def layers_in(shapes: Shapes, part: Part) -> tuple[int, int]:
    """The layers of the student and of the teacher in this stack."""
    return _layers(shapes.student, part), _layers(shapes.teacher, part)


def _layers(shape: ShapeRecord, part: Part) -> int:
    if part in (Part.ONLY, Part.ENCODER):
        return shape.layers
    assert shape.decoder_layers is not None
    return shape.decoder_layers
