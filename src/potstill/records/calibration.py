"""How far the probabilities of a model can be believed, before and after one temperature."""

from pydantic import Field

from potstill.records.parts import Part


class ReliabilityBin(Part):
    """Decisions of about the same confidence, and how many of them are right."""

    above: float
    up_to: float
    """Between which confidences they lie."""
    decisions: int
    confidence: float
    """Their mean."""
    accuracy: float
    low: float
    """This and the next: the 95 % interval of the accuracy by Wilson (1927), as if decisions were independent."""
    high: float


class CalibrationRecord(Part):
    """One model: the temperature fitted on the validation rows, and the test rows without it and with it."""

    temperature: float | None
    """By which logits are divided. None where none is to be used."""
    decisions: int
    """On validation rows, by which it was fitted: rows, words, or decisions about a label."""
    reason: str | None = None
    """Why none is used."""
    bins: list[ReliabilityBin]
    """Of the test rows, without those in which no decision lies."""
    bins_calibrated: list[ReliabilityBin] = Field(default_factory=list)
    """With the temperature; empty where none is used."""
