"""Which pieces of its teacher's vocabulary a student has."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from potstill.capabilities import Facts
from potstill.settings import Settings
from potstill.signals import Signal


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

    def refusals(self, where: str, facts: Facts) -> Iterator[str]:
        if facts.generative:
            yield (f"{where}: trimmed does not fit {facts.task}, whose labels are over the whole vocabulary. Use full.")
        elif self.min_count > 1 and (what := _compares_pieces(facts)):
            yield (
                f"{where}.min_count: {self.min_count} leaves out pieces of train, and {what} the teacher's pieces to "
                "the student's one by one. Set it to 1."
            )


def _compares_pieces(facts: Facts) -> str | None:
    """What sets the pieces of teacher and student beside each other, if something does."""
    if facts.windows:
        return "windows are cut by the teacher's pieces, which compares"
    if facts.online and facts.own_ids:
        return "label.mode: online shows"
    return "losses on features compare" if facts.reads - {Signal.LOGITS} else None


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
