"""Response distillation: the student matches the teacher's softened distribution."""

from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import field_validator
from torch import Tensor

from potstill.capabilities import Facts
from potstill.divergences import (
    AnyDivergence,
    ForwardKL,
    GaussianDivergence,
    NamedDivergence,
    at_least_float32,
    kl_divergence,
    temperature_scale,
)
from potstill.losses.model_shapes import Shapes
from potstill.losses.reduction import blank_masked, masked_mean
from potstill.losses.terms import SoftTerm
from potstill.schedules import Linear, Schedule, Weight
from potstill.settings import Settings
from potstill.signals import Signal, TeacherAt


def soft_target_kl(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"],
    mask: Bool[Tensor, "*batch"] | None = None,
    *,
    temperature: float,
) -> Float[Tensor, ""]:
    """KL(teacher || student) at temperature T, times T^2, in nats, averaged over the unmasked positions.

    Source: Hinton, Vinyals and Dean 2015, arXiv:1503.02531, section 2.

    Raises:
        ValueError: the temperature is not positive.
    """
    if mask is not None:
        student_logits, teacher_logits = blank_masked(student_logits, mask), blank_masked(teacher_logits, mask)
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    # T^2 keeps soft and hard gradients on one scale when T changes.
    return masked_mean(kl_divergence(teacher_logits, student_logits, temperature=temperature) * temperature**2, mask)


class SoftTargets(Settings):
    """`weight * T^2 * divergence(teacher, student)`, both at temperature T (Hinton 2015, arXiv:1503.02531).

    The divergence is KL(teacher || student) by default; total variation goes without T^2. Where outputs are
    numbers, it is (teacher - student)^2 / 2 in the variance of the labels, whatever the temperature.
    """

    kind: Literal["soft_targets"] = "soft_targets"
    weight: Weight = Linear(start=0.7, end=0.5)
    temperature: Schedule = Linear(start=4.0, end=1.0)
    """Softening starts strong, so that the order of the wrong classes is learnt, and ends at the distribution
    that will be served."""
    divergence: NamedDivergence = ForwardKL()

    @field_validator("temperature")
    @classmethod
    def _positive(cls, schedule: Schedule) -> Schedule:
        if min(schedule.values()) <= 0:
            raise ValueError(f"a temperature must be positive, got {min(schedule.values())}")
        return schedule

    def reads(self) -> frozenset[Signal]:
        return frozenset({Signal.LOGITS})

    @property
    def temperatures(self) -> tuple[float, ...]:
        """The ends of the temperatures at which it reads the teacher."""
        return self.temperature.values()

    def refusals(self, where: str, facts: Facts) -> Iterator[str]:
        if facts.means and not isinstance(self.divergence, GaussianDivergence):
            yield (
                f"{where}.divergence: {self.divergence.kind} is of distributions over classes, and task.problem_type "
                "is regression; use forward_kl or reverse_kl."
            )

    def build(self, shapes: Shapes | None = None) -> "SoftTargetsLoss":
        return SoftTargetsLoss(self)


class SoftTargetsLoss:
    """The logit loss of `SoftTargets`."""

    name = "soft_targets"

    def __init__(self, settings: SoftTargets) -> None:
        self._weight = settings.weight
        self._temperature = settings.temperature
        self._divergence: AnyDivergence = settings.divergence

    def weight_at(self, progress: float) -> float:
        return self._weight.at(progress)

    def settings_at(self, progress: float) -> Mapping[str, float]:
        return {"temperature": self._temperature.at(progress)}

    def per_position(
        self,
        student_logits: Float[Tensor, "positions classes"],
        teacher: TeacherAt | None,
        labels: Int[Tensor, "positions"],
        *,
        progress: float,
    ) -> Float[Tensor, "positions"]:
        assert teacher is not None, "the loop gives every loss the signals that it reads"
        temperature = self._temperature.at(progress)
        log_p = torch.log_softmax(at_least_float32(teacher(temperature)) / temperature, dim=-1)
        log_q = torch.log_softmax(at_least_float32(student_logits) / temperature, dim=-1)
        value: Tensor = self._divergence.value(log_p, log_q) * temperature_scale(self._divergence, temperature)
        return value

    def per_value(
        self,
        student: Float[Tensor, "positions"],
        teacher: Float[Tensor, "positions"] | None,
        labels: Float[Tensor, "positions"],
        *,
        progress: float,
    ) -> Float[Tensor, "positions"]:
        assert teacher is not None and isinstance(self._divergence, GaussianDivergence)
        # A Gaussian of unit variance whose natural parameter, the mean, is divided by T as logits are.
        temperature = self._temperature.at(progress)
        p, q = at_least_float32(teacher) / temperature, at_least_float32(student) / temperature
        value: Tensor = self._divergence.between_means(p, q) * temperature_scale(self._divergence, temperature)
        return value

    def term_at(self, progress: float) -> SoftTerm:
        return SoftTerm(self.name, self._divergence, self._weight.at(progress), self._temperature.at(progress))
