"""What a model card is made of, as those who know what it means give it."""

from collections.abc import Sequence
from dataclasses import dataclass

from potstill.presentation.tables import Quantity


@dataclass(frozen=True)
class FloorLine:
    """What a simpler model reaches."""

    name: str
    regression: str
    labelled_rows: int
    values: Sequence[tuple[str, float | None]]
    """By metric, in words."""


@dataclass(frozen=True)
class Card:
    """The parts of a card that depend on what the student answers with."""

    pipeline: str
    metrics: Sequence[str]
    is_a: str
    taught_by: str
    comparison: Sequence[Quantity]
    floors: Sequence[FloorLine]
    reads: str
    """How much of a text it reads."""
    timed_as: str
    """The same of what it is timed on, after its speed."""
    limit: str | None
    classes: str | None
    """What its classes are called, where it has some."""
    labelled: str
    """What the teacher labelled, and with what."""
    labels: str
    loading: str
    """Python that loads it."""
