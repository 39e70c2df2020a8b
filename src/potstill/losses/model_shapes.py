"""What a loss must know of the two models between which it stands."""

from dataclasses import dataclass

from potstill.records import ShapeRecord


@dataclass(frozen=True)
class Shapes:
    """The sizes of student and teacher."""

    student: ShapeRecord
    teacher: ShapeRecord
