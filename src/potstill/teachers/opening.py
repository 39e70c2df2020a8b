"""From a teacher's settings to the teacher of a training: what a run has of it, and which of that is opened."""

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import torch
from transformers import PreTrainedModel

from potstill.signals import Ask, Read, Teacher

Routes = Mapping[str, tuple[int, int]]
"""For each id of encoded rows the number of its teacher, and how many of its positions count. Empty where rows are not
routed by domain."""


@runtime_checkable
class Sources(Protocol):
    """What a run has of its teachers. `member` names one of an ensemble; without it, the one teacher is meant."""

    @property
    def student(self) -> PreTrainedModel: ...

    @property
    def ask(self) -> Ask: ...

    @property
    def device(self) -> torch.device: ...

    def distributions(self, member: str | None = None) -> Teacher:
        """A teacher's distributions: what was stored of them, or the teacher itself; none where no loss reads them."""
        ...

    def with_features(self, distributions: Teacher, reads: frozenset[Read], member: str | None = None) -> Teacher:
        """These distributions, with the features of a teacher beside them."""
        ...

    def routes(self, member_for: Callable[[str | None, str], int] | None) -> Routes:
        """Which member answers each row, by its domain and id; empty without such a rule."""
        ...
