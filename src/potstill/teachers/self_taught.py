"""Self-distillation: the model at another stage of its training as its own teacher."""

from typing import Annotated, Literal

from pydantic import Field

from potstill.settings import Settings
from potstill.teachers.pretrained import PretrainedTeacher


class CheckpointTeacher(Settings):
    """The student of an earlier run, as it ended or at a snapshot on the way.

    Also how a teacher assistant is made (Mirzadeh et al. 2020, arXiv:1902.03393): the student of one run, between the
    sizes of teacher and student, teaches the next.
    """

    kind: Literal["checkpoint"] = "checkpoint"
    run: str
    """The run directory, relative to the recipe."""
    member: Literal["student", "baseline"] = "student"
    at: Literal["best"] | Annotated[float, Field(gt=0, le=1)] = "best"
    """best: the weights that the run ended with. A share of its steps: the snapshot there, which that run must have
    been asked for with train.snapshots."""


class BornAgainTeacher(Settings):
    """Generations: the teacher teaches a first student, and that one the next (Born-Again Networks, arXiv:1805.04770).

    All of them start from the same weights and see the same rows; the last is the student of the run.
    """

    kind: Literal["generation"] = "generation"
    start: PretrainedTeacher
    """Teaches the first generation."""
    generations: int = Field(default=3, ge=2, le=20)
    """Students, one after the other, in each as many steps."""


class MovingAverageTeacher(Settings):
    """The average of the student's own weights over the last steps teaches it (Mean Teacher, arXiv:1703.01780)."""

    kind: Literal["ema"] = "ema"
    start: PretrainedTeacher
    """What the student is cut from, and compared with in the end."""
    decay: float = Field(default=0.999, ge=0, lt=1)
    """Share of the average that a step keeps: 0.999 is an average over about 1,000 steps, as in the paper after its
    first phase. 0 takes the student as it is, an earlier one where `every` is more than 1."""
    every: int = Field(default=1, ge=1)
    """Steps between two updates. With decay 0, the teacher is the student as it was up to so many steps ago."""
