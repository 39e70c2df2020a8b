"""A teacher that is asked about its student's token ids, where these are others than its own."""

from dataclasses import dataclass, replace

from jaxtyping import Int64
from torch import Tensor

from potstill.signals import Batch, Signals, Teacher


@dataclass(frozen=True)
class TokenMappedTeacher:
    """`teacher`, shown each of the student's pieces under the teacher's id."""

    teacher: Teacher
    kept: Int64[Tensor, "pieces"]
    """The teacher's id of each of the student's."""

    def __call__(self, batch: Batch) -> Signals:
        ids = batch.inputs["input_ids"]
        return self.teacher(replace(batch, inputs={**batch.inputs, "input_ids": self.kept.to(ids.device)[ids]}))
