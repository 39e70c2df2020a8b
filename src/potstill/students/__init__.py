"""Students: their shape and their first weights."""

from potstill.students.copying import copy_from_teacher
from potstill.students.shape import Copy, Random, Shrunk, model_shape, student_config

# One member so far; a union with `kind` as its discriminator when there are two.
AnyStudent = Shrunk

__all__ = ["AnyStudent", "Copy", "Random", "Shrunk", "copy_from_teacher", "model_shape", "student_config"]
