"""Self-distillation: the model at another stage of its training as its own teacher."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from potstill.capabilities import Capability, Facts, require_still
from potstill.signals import Read, Teacher
from potstill.teachers.moving_average import MovingAverage
from potstill.teachers.one_teacher import OneTeacher
from potstill.teachers.opening import Sources
from potstill.teachers.pretrained import PretrainedTeacher

ROUND = "generation-"
"""How the students of earlier rounds are called, with their number behind it."""


def is_round(name: str) -> bool:
    """Whether a model of a run is a student of an earlier round."""
    return name.startswith(ROUND)


class CheckpointTeacher(OneTeacher):
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

    @property
    def gives(self) -> frozenset[Capability]:
        return frozenset(Capability)

    @property
    def lead(self) -> PretrainedTeacher:
        """The student of that run, or its snapshot."""
        member = Path(self.run) / "train" / self.member
        return PretrainedTeacher(model=str(member / ("model" if self.at == "best" else snapshot_name(self.at))))

    @property
    def title(self) -> str:
        """Who teaches, in a few words."""
        return self.lead.model

    @property
    def described(self) -> str:
        """Who teaches, in a sentence."""
        return f"the {self.member} of the run {self.run}"


class BornAgainTeacher(OneTeacher):
    """Generations: the teacher teaches a first student, and that one the next (Born-Again Networks, arXiv:1805.04770).

    All of them start from the same weights and see the same rows; the last is the student of the run.
    """

    kind: Literal["generation"] = "generation"
    start: PretrainedTeacher
    """Teaches the first generation."""
    generations: int = Field(default=3, ge=2, le=20)
    """Students, one after the other, in each as many steps."""

    @property
    def gives(self) -> frozenset[Capability]:
        """All but text: what a round writes would be another text than that of the round before."""
        return frozenset(Capability) - {Capability.TEXT}

    @property
    def lead(self) -> PretrainedTeacher:
        return self.start

    @property
    def rounds(self) -> int:
        """How many students are trained one after the other, each by the one before."""
        return self.generations

    @property
    def title(self) -> str:
        """Who teaches, in a few words."""
        return self.start.model

    @property
    def described(self) -> str:
        """Who teaches, in a sentence."""
        return f"{self.start.model}, through {self.generations} generations of students"


class MovingAverageTeacher(OneTeacher):
    """The average of the student's own weights over the last steps teaches it (Mean Teacher, arXiv:1703.01780)."""

    kind: Literal["ema"] = "ema"
    start: PretrainedTeacher
    """What the student is cut from, and compared with in the end."""
    decay: float = Field(default=0.999, ge=0, lt=1)
    """Share of the average that a step keeps: 0.999 is an average over about 1,000 steps, as in the paper after its
    first phase. 0 takes the student as it is, an earlier one where `every` is more than 1."""
    every: int = Field(default=1, ge=1)
    """Steps between two updates. With decay 0, the teacher is the student as it was up to so many steps ago."""

    @property
    def gives(self) -> frozenset[Capability]:
        """Neither text nor the same answers all through a run: it moves."""
        return frozenset(Capability) - {Capability.TEXT, Capability.STILLNESS}

    @property
    def lead(self) -> PretrainedTeacher:
        return self.start

    own_ids: ClassVar[bool] = False
    """It reads as its student does, since it was one."""
    settings_decide: ClassVar[bool] = True

    @property
    def title(self) -> str:
        """Who teaches, in a few words."""
        return self.start.model

    @property
    def described(self) -> str:
        """Who teaches, in a sentence."""
        return f"{self.start.model}, and the moving average of the student itself"

    def refusals(self, where: str, facts: Facts) -> Iterator[str]:
        yield from require_still(where, facts)

    def open(self, sources: Sources, reads: frozenset[Read]) -> Teacher:
        """The moving average of the student that is trained."""
        return MovingAverage(sources.student, sources.device, sources.ask, reads, decay=self.decay, every=self.every)


def snapshot_name(share: float) -> str:
    """The folder, within that of a training, of the model after this share of the steps."""
    return f"snapshots/{share:.4f}"
