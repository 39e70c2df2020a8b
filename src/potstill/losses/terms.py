"""What a loss asks for at one step: its weight and temperature already looked up in their schedules."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from potstill.divergences import Divergence
from potstill.signals import LogitLoss


@dataclass(frozen=True)
class SoftTerm:
    """A divergence from the teacher at one temperature, as it stands at one step."""

    name: str
    divergence: Divergence
    weight: float
    temperature: float


@dataclass(frozen=True)
class HardTerm:
    """Cross-entropy with the labels, as it stands at one step."""

    name: str
    weight: float
    label_smoothing: float = 0.0


Term = SoftTerm | HardTerm


@runtime_checkable
class TermLoss(LogitLoss, Protocol):
    """A logit loss that the chunked core can compute without a graph, since its gradient is known."""

    def term_at(self, progress: float) -> Term: ...
