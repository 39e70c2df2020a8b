"""How a recipe says how large a student is and where it starts, as numbers or as shares of its teacher."""

from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field
from transformers import PretrainedConfig

from potstill.capabilities import Capability, Facts, missing
from potstill.errors import ModelError
from potstill.models import FAMILIES, Kind, spread
from potstill.settings import Settings
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
    sample of the training rows (ShortGPT, arXiv:2403.03853). Measured, KL from the teacher after equal steps: encoders
    on licence notices, three seeds, 0.167 spread and 0.168 by influence; 10 of 30 layers of a chat model, one seed,
    3.10 and 1.84. A T5 of 4 + 4 layers before any training, 2 + 2 of them: 0.14 and 0.09."""
    of: Literal["teacher", "original"] = "teacher"
    """teacher: the one that is distilled, adapted where the recipe adapts it. original: as it was before, with a new
    head, which is where a born-again student of the teacher's own size starts."""
    width: Literal["slice", "project", "pruned"] = "slice"
    """How a smaller width is made: keep the first channels, project onto the principal directions of the teacher's
    word embeddings, or keep the channels, heads and feed-forward units that are most active on a sample of the training
    rows (Minitron, arXiv:2407.14679). Measured on licence notices, 3 x 192 from 6 x 384, three seeds: KL from the
    teacher 0.167 sliced, 0.192 projected, 0.138 pruned (-0.066 to +0.007 against sliced); accuracy 83.7, 81.8 and
    83.7 %. So nothing is measured by default."""

    sample: int = Field(default=256, ge=1)
    """Training rows of that sample, where importance is measured; chosen by a stable hash. Minitron takes 1,024."""

    def refusals(self, where: str, facts: Facts) -> Iterator[str]:
        yield from missing(f"{where}: copy", Capability.WEIGHTS, facts)

    @property
    def measures(self) -> bool:
        """Whether parts of the teacher are chosen by their importance."""
        return self.layers == "block_influence" or self.width == "pruned"


Initialisation = Annotated[Random | Copy, Field(discriminator="kind")]


if TYPE_CHECKING:
    FamilyName = str
else:
    # Of those that can be cut and have one stack; a student of an encoder-decoder is of its family.
    FamilyName = Literal[
        tuple(each.name for each in FAMILIES.values() if each.teaches and each.kind is not Kind.ENCODER_DECODER)
    ]


class CutStudent(Settings):
    """A student that is cut from its teacher's configuration."""

    def refusals(self, where: str, facts: Facts) -> Iterator[str]:
        yield from missing(where, Capability.CONFIGURATION, facts)


class Shrunk(CutStudent):
    """A smaller model of the teacher's family."""

    kind: Literal["shrunk"] = "shrunk"
    layers: Size = "1/2"
    decoder_layers: Size | None = Field(default=None, exclude_if=lambda size: size is None)
    """Of encoder-decoders; by default as `layers`, which then is that of both stacks."""
    width: Size = "1/2"
    heads: int | None = Field(default=None, ge=1)
    """Attention heads; by default as many as keep the teacher's size of a head."""
    key_value_heads: int | None = Field(default=None, ge=1, exclude_if=lambda heads: heads is None)
    """Of decoders, beside `heads`: how many of keys and values. By default heads keep the teacher's size, in the
    teacher's groups. Given, a head has width / heads channels, and the weights are random."""
    intermediate: Size | None = None
    """Width of the feed-forward layer, or of each expert; by default in the teacher's proportion to the width."""
    experts: int | None = Field(default=None, ge=1, exclude_if=lambda experts: experts is None)
    """Of models with experts: how many each layer has; by default the teacher's. Copied ones are the first, or with
    `width: pruned` those that are chosen most often."""
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """Dropout in training; by default the teacher's."""
    vocabulary: AnyVocabulary = FullVocabulary()
    """Which of the teacher's pieces it has."""
    family: FamilyName | None = Field(default=None, exclude_if=lambda family: family is None)
    """By default the teacher's. Another one takes copied weights where its modules correspond, as DistilBERT's do to
    BERT's, and random ones elsewhere (`init: {kind: random}`)."""
    init: Initialisation = Copy()


def layer_map(student_layers: int, teacher_layers: int, pattern: str) -> list[int]:
    """The teacher's layer for each layer of the student."""
    if pattern == "last":
        return list(range(teacher_layers - student_layers, teacher_layers))
    return list(range(student_layers)) if pattern == "first" else spread(student_layers, teacher_layers)


def size_of(size: int | str, of_teacher: int, where: str, *, unit: int = 1) -> int:
    """A number as it is; a share as the nearest multiple of `unit`, which is at least one of them."""
    if isinstance(size, str):
        return unit * max(1, round(Fraction(size) * of_teacher / unit))
    if size > of_teacher:
        raise ModelError(f"{where}: {size} is more than the teacher's {of_teacher}; a student must not be larger.")
    return size


def intermediate_size(student: Shrunk, of_teacher: int, widths: tuple[int, int]) -> int:
    """Feed-forward units: as many as are asked for, else in the teacher's proportion to the width.

    `widths` are the student's and the teacher's.
    """
    if student.intermediate is not None:
        return size_of(student.intermediate, of_teacher, "student.intermediate")
    return max(1, round(of_teacher * widths[0] / widths[1]))


def own_values(teacher: PretrainedConfig) -> dict[str, Any]:
    """The teacher's configuration without what names its files."""
    values: dict[str, Any] = teacher.to_dict()
    for field in ("_name_or_path", "architectures", "dtype", "torch_dtype"):
        values.pop(field, None)
    return values
