"""The forms in which models can be shipped: that they are written, and what was measured of them."""

from pydantic import Field

from potstill.records.evaluation import EvaluateRecord
from potstill.records.parts import Part
from potstill.run_dir import Record


class WrittenForm(Record):
    """A model in a form that can be shipped, in `model/`."""

    missing: str | None = None
    """Why it cannot be written, where it cannot and need not."""


class MeasuredForm(Part):
    """A form beside the model that it was made of."""

    size_bytes: int
    largest_difference: float
    """Of an output, over some test rows."""
    share: float
    """The same as a share of the largest output."""
    evaluation: EvaluateRecord | None = None
    """In which it is the student; None of the student's own files, of which that is known."""
    agreement_with_source: float | None = None


class FormsRecord(Record):
    """All forms of a run, measured side by side."""

    forms: dict[str, MeasuredForm] = Field(default_factory=dict)
