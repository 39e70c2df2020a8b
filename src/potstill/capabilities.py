"""What teachers and predictors can be asked for, and what the parts of a recipe must know of each other.

No part asks which class another is of: it checks what it needs against what the others say they can.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

from potstill.signals import Signal


class Capability(StrEnum):
    """What a teacher, or a predictor, can give."""

    DISTRIBUTION = "distributions over all classes or tokens"
    TOP_K = "log-probabilities of its likeliest tokens"
    HIDDEN_STATES = "hidden states"
    TEXT = "text that it writes"
    WEIGHTS = "weights"
    CONFIGURATION = "a configuration"
    STILLNESS = "the same answers all through a run"


OF_LAYERS = (Capability.HIDDEN_STATES, Capability.WEIGHTS)
"""What it takes to read a teacher's layers, or its last hidden states with its head: the states, and the model."""


@dataclass(frozen=True)
class Facts:
    """What the parts of a recipe say of themselves."""

    task: str
    """Its kind."""
    generative: bool
    answers: str
    """What models answer with; those that answer with text are decoders."""
    means: bool
    """Whether models answer with numbers, as means of Gaussians."""
    windows: bool
    """Whether rows are read in windows."""
    packing: bool
    """Whether examples share rows."""
    freezes_layers: bool
    """Whether the lowest layers of its teachers can stay as they are while these are adapted."""
    teacher: str
    rounds: int
    """Students that are trained one after the other, each by the one before."""
    gives: frozenset[Capability]
    """What the teacher gives."""
    own_ids: bool
    """Whether the teacher reads token ids of its own, where its student's are others."""
    online: bool
    encoding: str
    whole: bool
    """Whether the encoding holds whole distributions."""
    reads: frozenset[Signal]
    """What the losses read of the teacher."""
    temperatures: tuple[float, float]
    """The lowest and the highest that the losses use."""
    grid: tuple[float, ...]
    """The temperatures that a compressed encoding must serve."""
    bounded: bool
    """Whether labels may be only so far from the teacher."""


@runtime_checkable
class Part(Protocol):
    """A part of a recipe that needs something of the others."""

    def refusals(self, where: str, facts: Facts) -> Iterator[str]:
        """Why it cannot work with the others, as sentences that begin with the key of `where` it stands."""
        ...


def missing(where: str, needed: Capability, facts: Facts) -> Iterator[str]:
    """A refusal, where the teacher does not give what is needed."""
    if needed not in facts.gives:
        yield f"{where} needs {needed.value} of the teacher, which teacher.kind: {facts.teacher} does not give."


def missing_of_layers(where: str, facts: Facts) -> Iterator[str]:
    """A refusal, where the layers of the teacher cannot be read; names the first that is missing for it."""
    lacking = [needed for needed in OF_LAYERS if needed not in facts.gives]
    for needed in lacking[:1]:
        yield from missing(where, needed, facts)


def require_still(where: str, facts: Facts) -> Iterator[str]:
    """A refusal of a teacher whose answers cannot be stored."""
    if Capability.STILLNESS not in facts.gives and not facts.online:
        yield f"{where}: {facts.teacher} changes while it teaches, so it cannot be stored. Set label.mode: online."
