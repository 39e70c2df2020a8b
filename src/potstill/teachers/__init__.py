"""Teachers: where the knowledge comes from. Settings here; stored labels speak for them in training."""

from potstill.teachers.frozen import FrozenTeacher
from potstill.teachers.joined import JoinedTeacher
from potstill.teachers.pretrained import PretrainedTeacher

# One member so far; a union with `kind` as its discriminator when there are two.
AnyTeacher = PretrainedTeacher

__all__ = ["AnyTeacher", "FrozenTeacher", "JoinedTeacher", "PretrainedTeacher"]
