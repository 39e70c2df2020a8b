"""The protocols by which losses, teachers and the training loop meet.

The loop knows a teacher as `teacher(batch) -> Signals` and a logit loss as one value for each position.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from potstill.targets import Head, Target

IGNORE_INDEX = -100
"""The label of a position without a hard label (the convention of torch and transformers)."""


class Signal(StrEnum):
    """What a loss can ask of a teacher; a recipe's losses decide what is stored."""

    LOGITS = "logits"


@dataclass(frozen=True)
class Signals:
    """What a model said about a batch; a signal that nobody asked for is None."""

    logits: Float[Tensor, "*batch classes"] | None = None
    hidden: Float[Tensor, "*batch width"] | None = None
    """Last hidden states, after the final norm: what the head makes logits of."""
    head: Head | None = None
    target: Target | None = None
    """A teacher's distributions at the unmasked positions alone, in their order."""


@dataclass(frozen=True)
class Batch:
    """Rows on their way through a model.

    `mask` is true where a position counts at all; `labels` is IGNORE_INDEX where there is no hard label.
    """

    ids: tuple[str, ...]
    inputs: Mapping[str, Tensor]
    labels: Int[Tensor, "*batch"]
    mask: Bool[Tensor, "*batch"]

    def to(self, device: torch.device) -> "Batch":
        move = {name: tensor.to(device, non_blocking=True) for name, tensor in self.inputs.items()}
        return Batch(self.ids, move, self.labels.to(device), self.mask.to(device))


Ask = Callable[[nn.Module, Batch], Signals]
"""How a task asks a model about a batch: for logits, or for hidden states and the head."""


@runtime_checkable
class Teacher(Protocol):
    """A source of signals for a batch: stored labels or a frozen model."""

    def __call__(self, batch: Batch) -> Signals: ...


@runtime_checkable
class LogitLoss(Protocol):
    """A loss that is a sum over positions of a function of the logits there.

    One driver evaluates all of them together (`losses/mixing.py`), so that the logits are made once.
    """

    name: str

    def weight_at(self, progress: float) -> float: ...

    def settings_at(self, progress: float) -> Mapping[str, float]:
        """What to write to the metrics: the temperature now, for example."""
        ...

    def per_position(
        self,
        student_logits: Float[Tensor, "positions classes"],
        teacher_logits: Float[Tensor, "positions classes"] | None,
        labels: Int[Tensor, "positions"],
        *,
        progress: float,
    ) -> Float[Tensor, "positions"]: ...
