"""One teacher from several: the distributions of one, the features of the others."""

from collections import ChainMap
from dataclasses import dataclass, replace

from potstill.signals import Batch, PreparedTeacher, Signals, Teacher


@dataclass(frozen=True)
class CompositeTeacher:
    """Stored distributions beside features, for one: neither is asked for what the other gives."""

    distributions: Teacher
    features: tuple[Teacher, ...]

    def prepare(self, batch: Batch) -> None:
        for each in (self.distributions, *self.features):
            if isinstance(each, PreparedTeacher):
                each.prepare(batch)

    def __call__(self, batch: Batch) -> Signals:
        shown = [each(batch).features for each in self.features]
        return replace(self.distributions(batch), features=dict(ChainMap(*map(dict, shown))))
