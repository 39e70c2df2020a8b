"""What teachers have in common that are one model, whatever stage of its training it is at."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from potstill.settings import Settings
from potstill.signals import Read, Teacher
from potstill.teachers.opening import Sources

Domains = Mapping[str, tuple[str, ...]]
"""For a teacher, the values of the column `domain` of the rows that it knows."""


class OneTeacher(Settings):
    """Settings of a teacher that is one model."""

    runtime: ClassVar[str] = "transformers"
    """What answers for it, as `runtimes` names it."""
    own_ids: ClassVar[bool] = True
    """Whether it reads token ids of its own, where its student's are others."""
    settings_decide: ClassVar[bool] = False
    """Whether settings of its own decide how its answers are used."""

    @property
    def rounds(self) -> int:
        """How many students are trained one after the other, each by the one before."""
        return 1

    @property
    def members(self) -> Mapping[str, Any]:
        """The teachers of an ensemble; one teacher has none."""
        return {}

    @property
    def member_domains(self) -> Domains:
        """The domains of members that are adapted on the rows of these alone."""
        return {}

    @property
    def lead_member(self) -> str | None:
        """Of an ensemble, the member whose family and first weights the student takes."""
        return None

    def require_routes(self, rows: Iterable[Any]) -> None:
        """One teacher answers every row."""

    def open(self, sources: Sources, reads: frozenset[Read]) -> Teacher:
        """The teacher of a training whose losses read these features."""
        return sources.with_features(sources.distributions(), reads)
