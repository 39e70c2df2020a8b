"""One teacher from two: the distributions of one, the features of the other."""

from dataclasses import dataclass, replace

from potstill.signals import Batch, Signals, Teacher


@dataclass(frozen=True)
class JoinedTeacher:
    """Stored distributions beside features, for one: neither is asked for what the other gives."""

    distributions: Teacher
    features: Teacher

    def __call__(self, batch: Batch) -> Signals:
        return replace(self.distributions(batch), features=self.features(batch).features)
