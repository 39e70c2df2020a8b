"""Hard labels: the anchor that keeps the student from copying the teacher's mistakes."""

from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from potstill.capabilities import Facts
from potstill.divergences import at_least_float32
from potstill.losses.model_shapes import Shapes
from potstill.losses.terms import HardTerm
from potstill.schedules import Linear, Weight
from potstill.settings import Settings
from potstill.signals import IGNORE_INDEX, Signal, TeacherAt


class HardLabels(Settings):
    """`weight * cross-entropy` with the true class in nats; rows without a label add nothing.

    Where labels are numbers, it is (label - output)^2 / 2: the same of a Gaussian of unit variance, up to a constant.
    """

    kind: Literal["hard_labels"] = "hard_labels"
    weight: Weight = Linear(start=0.3, end=0.5)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)

    def refusals(self, where: str, facts: Facts) -> Iterator[str]:
        if facts.means and self.label_smoothing:
            yield f"{where}.label_smoothing: numbers have no other classes to share with. Drop it."

    def reads(self) -> frozenset[Signal]:
        return frozenset()

    def build(self, shapes: Shapes | None = None) -> "HardLabelsLoss":
        return HardLabelsLoss(self)


class HardLabelsLoss:
    """The logit loss of `HardLabels`."""

    name = "hard_labels"

    def __init__(self, settings: HardLabels) -> None:
        self._weight = settings.weight
        self._smoothing = settings.label_smoothing

    def weight_at(self, progress: float) -> float:
        return self._weight.at(progress)

    def settings_at(self, progress: float) -> Mapping[str, float]:
        return {}

    def per_position(
        self,
        student_logits: Float[Tensor, "positions classes"],
        teacher: TeacherAt | None,
        labels: Int[Tensor, "positions"],
        *,
        progress: float,
    ) -> Float[Tensor, "positions"]:
        return torch.nn.functional.cross_entropy(
            at_least_float32(student_logits),
            labels,
            reduction="none",
            ignore_index=IGNORE_INDEX,
            label_smoothing=self._smoothing,
        )

    def per_value(
        self,
        student: Float[Tensor, "positions"],
        teacher: Float[Tensor, "positions"] | None,
        labels: Float[Tensor, "positions"],
        *,
        progress: float,
    ) -> Float[Tensor, "positions"]:
        known = ~labels.isnan()
        # where before the square: the gradient of NaN is NaN, even where zero flows into it.
        distance = (at_least_float32(student) - labels).where(known, 0.0)
        return distance.square() / 2

    def term_at(self, progress: float) -> HardTerm:
        return HardTerm(self.name, self._weight.at(progress), self._smoothing)
