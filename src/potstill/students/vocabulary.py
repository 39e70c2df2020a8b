"""Which pieces of its teacher's vocabulary a student has."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from potstill.settings import Settings


class FullVocabulary(Settings):
    """All of the teacher's pieces: the student reads with the teacher's tokenizer."""

    kind: Literal["full"] = "full"


class TrimmedVocabulary(Settings):
    """The pieces that occur in the task's rows, and single characters for all else: a much smaller embedding matrix.

    Texts of these pieces are read as the teacher reads them, with other numbers; all others are spelt with shorter
    pieces. The soft labels stay as they are.
    """

    kind: Literal["trimmed"] = "trimmed"
    min_count: int = Field(default=1, ge=1)
    """How often a piece must occur. From 2 on, also some rows of train are spelt otherwise than the teacher reads
    them, so that its features do not fit the student's tokens."""
    rows: Literal["train", "train_and_adapt"] = "train"
    """Where it must occur. Rows of adapt add pieces that the student will not see in training, but of which it has
    the teacher's embeddings."""


class FactorisedVocabulary(Settings):
    """All of the teacher's pieces, with a narrow vector each and one projection to the student's width for all.

    For encoders in the shape of BERT, whose student is then an ELECTRA model. Where the domain's texts are known,
    `trimmed` saves more and loses less: its embeddings are the teacher's own.
    """

    kind: Literal["factorised"] = "factorised"
    size: int = Field(default=128, ge=1)
    """Channels of the narrow vectors. ALBERT's 128 of 768 (arXiv:1909.11942, table 3)."""


def _kind_alone(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


def _is_full(vocabulary: Any) -> bool:
    # Not written down, so that records of before this setting stay valid.
    return isinstance(vocabulary, FullVocabulary)


_AnyForm = Literal["full", "trimmed"] | FullVocabulary | TrimmedVocabulary
AnyVocabulary = Annotated[
    FullVocabulary | TrimmedVocabulary | FactorisedVocabulary,
    Field(discriminator="kind", exclude_if=_is_full),
    BeforeValidator(_kind_alone, json_schema_input_type=_AnyForm),
]
"""`vocabulary: trimmed` is short for `vocabulary: {kind: trimmed}`."""
