"""Students: their shape and their first weights."""

from potstill.students.copying import copy_from_teacher
from potstill.students.importance import Importance, measure_importance
from potstill.students.shape import Copy, Random, Shrunk, model_shape, shape_notes, student_config

# One member so far; a union with `kind` as its discriminator when there are two.
AnyStudent = Shrunk

__all__ = [
    "AnyStudent",
    "Copy",
    "Importance",
    "Random",
    "Shrunk",
    "copy_from_teacher",
    "measure_importance",
    "model_shape",
    "shape_notes",
    "student_config",
]
