"""Parts of the test rows, and the rows that the student lost against its teacher."""

from typing import Literal

from potstill.records.parts import Estimate, Part


class SliceRow(Part):
    """Some of the test rows that have something in common, and what each model has right of them."""

    by: Literal["class", "length", "field"]
    """What they have in common: their true class, about the same length, or the value of a field."""
    field: str | None = None
    """The name of that field."""
    name: str
    rows: int
    small: bool
    """Whether there are too few rows for the interval to be trusted."""
    teacher_accuracy: float
    student_accuracy: float
    baseline_accuracy: float | None
    drop_points: Estimate
    """Teacher minus student."""


class RegressionRow(Part):
    """A test row that the teacher has right and the student wrong."""

    id: str
    text: str
    truth: str
    teacher: str
    student: str
    baseline: str | None
    teacher_confidence: float | None
    student_confidence: float | None
    """In what each answers; None where it is not measured."""
    slice: str | None
    """The worst slice that the row is in."""


class RegressionsRecord(Part):
    """The rows that only one of teacher and student has right."""

    lost: int
    """Rows that only the teacher has right."""
    gained: int
    """Rows that only the student has right."""
    rows: list[RegressionRow]
    """Some of those that were lost."""
