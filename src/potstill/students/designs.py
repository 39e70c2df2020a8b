"""Students in shapes that others have proven, by name."""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field
from transformers import PretrainedConfig

from potstill.errors import ModelError
from potstill.models import Kind, Size, family_of, is_a
from potstill.students.layouts import laid_out_alike
from potstill.students.sizes import Copy, CutStudent, FamilyName, Initialisation, Random, Shrunk
from potstill.students.vocabulary import AnyVocabulary, FullVocabulary


@dataclass(frozen=True)
class Proven:
    """The sizes of a published model."""

    layers: int
    width: int
    heads: int
    intermediate: int
    source: str
    key_value_heads: int | None = None
    """Of decoders."""
    family: FamilyName | None = None
    """Where the model is of a family of its own, and teachers that are laid out alike can be copied into it."""

    @property
    def head_size(self) -> int:
        return self.width // self.heads

    @property
    def kind(self) -> Kind:
        return Kind.DECODER if self.key_value_heads else Kind.ENCODER


_WELL_READ = "Turc et al. 2019, arXiv:1908.08962"
_TINYBERT = "TinyBERT, Jiao et al. 2019, arXiv:1909.10351"
_MINILM = "MiniLM, Wang et al. 2020, arXiv:2002.10957"
_SMOLLM2 = "SmolLM2, Allal et al. 2025, arXiv:2502.02737"

DESIGNS: dict[str, Proven] = {
    "bert-tiny": Proven(2, 128, 2, 512, _WELL_READ),
    "bert-mini": Proven(4, 256, 4, 1024, _WELL_READ),
    "bert-small": Proven(4, 512, 8, 2048, _WELL_READ),
    "bert-medium": Proven(8, 512, 8, 2048, _WELL_READ),
    "bert-base": Proven(12, 768, 12, 3072, "BERT, Devlin et al. 2018, arXiv:1810.04805"),
    "distilbert": Proven(6, 768, 12, 3072, "DistilBERT, Sanh et al. 2019, arXiv:1910.01108", family="distilbert"),
    "tinybert-4": Proven(4, 312, 12, 1200, _TINYBERT),
    "tinybert-6": Proven(6, 768, 12, 3072, _TINYBERT),
    "minilm-6": Proven(6, 384, 12, 1536, _MINILM),
    "minilm-12": Proven(12, 384, 12, 1536, _MINILM),
    "tinyllama": Proven(22, 2048, 32, 5632, "TinyLlama, Zhang et al. 2024, arXiv:2401.02385", 4),
    "smollm2-135m": Proven(30, 576, 9, 1536, _SMOLLM2, 3),
    "smollm2-360m": Proven(32, 960, 15, 2560, _SMOLLM2, 5),
    "qwen2.5-0.5b": Proven(24, 896, 14, 4864, "Qwen2.5, Qwen Team 2024, arXiv:2412.15115", 2),
}
DesignName = Literal[
    "bert-tiny",
    "bert-mini",
    "bert-small",
    "bert-medium",
    "bert-base",
    "distilbert",
    "tinybert-4",
    "tinybert-6",
    "minilm-6",
    "minilm-12",
    "tinyllama",
    "smollm2-135m",
    "smollm2-360m",
    "qwen2.5-0.5b",
]


class Design(CutStudent):
    """The shape of a published model, such as DistilBERT's or TinyLlama's, by its name."""

    kind: Literal["design"] = "design"
    name: DesignName
    """Sizes with their sources: `students/designs.py`. The vocabulary stays the teacher's, and so does the family,
    except that DistilBERT is its own."""
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """As of a shrunk student."""
    vocabulary: AnyVocabulary = FullVocabulary()
    """As of a shrunk student."""
    init: Initialisation = Copy()
    """As of a shrunk student, where the design's heads are as large as the teacher's; random otherwise, which the plan
    says."""


def designs_for(teacher: PretrainedConfig) -> list[str]:
    """The designs of the teacher's kind that are nowhere larger than it."""
    return [name for name, proven in DESIGNS.items() if _fits(proven, teacher)]


def designed(teacher: PretrainedConfig, asked: Design) -> Shrunk:
    """The design as sizes.

    Raises:
        ModelError: one that is larger than the teacher, or of another kind; names those that fit.
    """
    proven = DESIGNS[asked.name]
    if not _fits(proven, teacher):
        fitting = ", ".join(designs_for(teacher)) or "none does"
        raise ModelError(
            f"student.name: {asked.name} is {proven.kind.value} of {proven.layers} x {proven.width} with "
            f"{proven.intermediate} feed-forward units, and does not fit in a teacher of the family "
            f"{teacher.model_type!r} of {teacher.num_hidden_layers} x {teacher.hidden_size}. Those that fit: {fitting}."
        )
    copied = asked.init if _heads_agree(proven, teacher) else Random()
    own_family = proven.family is not None and laid_out_alike(proven.family, teacher.model_type)
    return Shrunk(
        layers=proven.layers,
        width=proven.width,
        heads=proven.heads,
        key_value_heads=None if isinstance(copied, Copy) else proven.key_value_heads,
        intermediate=proven.intermediate,
        dropout=asked.dropout,
        vocabulary=asked.vocabulary,
        family=proven.family if own_family else None,
        init=copied,
    )


def design_note(teacher: PretrainedConfig, asked: Design) -> str | None:
    """Why a design does not start from the teacher's weights, where the recipe would have it so."""
    proven = DESIGNS[asked.name]
    if isinstance(asked.init, Random) or _heads_agree(proven, teacher):
        return None
    grouped = f" in groups of {proven.heads // proven.key_value_heads}" if proven.key_value_heads else ""
    return (
        f"student.name: {asked.name} has heads of {proven.head_size} channels{grouped}, the teacher other ones (of "
        f"{family_of(teacher).head_size(teacher)}), which cannot be cut to them: its first weights are random, and it "
        "needs more steps."
    )


def _fits(proven: Proven, teacher: PretrainedConfig) -> bool:
    if not is_a(proven.kind, teacher.model_type):
        return False
    sizes = {Size.LAYERS: proven.layers, Size.WIDTH: proven.width, Size.INTERMEDIATE: proven.intermediate}
    family = family_of(teacher)
    if proven.key_value_heads and Size.KEY_VALUE_HEADS not in family.sizes:
        return False
    return all(size <= family.size(teacher, name) for name, size in sizes.items())


def _heads_agree(proven: Proven, teacher: PretrainedConfig) -> bool:
    """Whether the teacher's heads can be kept whole: as many channels, and as many that share their keys."""
    family = family_of(teacher)
    if proven.head_size != family.head_size(teacher):
        return False
    if proven.key_value_heads is None:
        return True
    whole = family.size(teacher, Size.HEADS)
    grouped = whole // family.key_value_heads(teacher)
    return proven.heads <= whole and proven.heads == proven.key_value_heads * grouped
