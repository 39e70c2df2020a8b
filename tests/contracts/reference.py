"""Losses by loops over plain numbers, and cases to compare them on: the float64 reference of the contracts."""

import cmath
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from potstill.divergences import ForwardKL, GeneralisedJSD, ReverseKL, SkewKL, TotalVariation
from potstill.losses import AnyLoss, HardLabels, LossSums, MixedLoss, SoftTargets
from potstill.schedules import Constant, Cosine, Linear
from potstill.signals import IGNORE_INDEX, Batch, Signal, Signals

Floats = npt.NDArray[np.float64]
# Losses on features have references of their own, in feature_reference.py.
LOSSES = tuple(loss for loss in get_args(get_args(AnyLoss)[0]) if loss().reads() <= {Signal.LOGITS})
FAST = settings(max_examples=25, deadline=None, derandomize=True)


def naive_schedule(schedule: Any, progress: float) -> float:
    if isinstance(schedule, Constant):
        return schedule.value
    share = progress if isinstance(schedule, Linear) else 0.5 - 0.5 * math.cos(math.pi * progress)
    return schedule.start * (1 - share) + schedule.end * share


def naive_log_softmax(logits: Sequence[complex], temperature: float) -> list[complex]:
    total = sum(cmath.exp(logit / temperature) for logit in logits)
    return [logit / temperature - cmath.log(total) for logit in logits]


def naive_soft(loss: Any, student: Sequence[complex], teacher: Floats, label: int, progress: float) -> complex:
    temperature = naive_schedule(loss.temperature, progress)
    log_p = naive_log_softmax(list(teacher), temperature)
    log_q = naive_log_softmax(student, temperature)
    return naive_scale(loss.divergence, temperature) * naive_divergence(loss.divergence, log_p, log_q)


def naive_scale(divergence: Any, temperature: float) -> float:
    return 1.0 if divergence.kind == "total_variation" else temperature**2


def naive_divergence(divergence: Any, log_p: Sequence[complex], log_q: Sequence[complex]) -> complex:
    """By its definition, from the probabilities."""
    pairs = [(cmath.exp(p), cmath.exp(q)) for p, q in zip(log_p, log_q, strict=True)]

    def kl(first: Sequence[complex], second: Sequence[complex]) -> complex:
        return sum((a * (cmath.log(a) - cmath.log(b)) for a, b in zip(first, second, strict=True)), 0j)

    p, q = [each for each, _ in pairs], [each for _, each in pairs]
    match divergence.kind:
        case "forward_kl":
            return kl(p, q)
        case "reverse_kl":
            return kl(q, p)
        case "generalised_jsd" if divergence.beta in (0, 1):
            return kl(q, p) if divergence.beta else kl(p, q)
        case "generalised_jsd":
            beta = divergence.beta
            m = [beta * a + (1 - beta) * b for a, b in pairs]
            return (beta * kl(p, m) + (1 - beta) * kl(q, m)) / (beta * (1 - beta))
        case "skew_kl":
            first, second = (q, p) if divergence.reverse else (p, q)
            m = [divergence.skew * a + (1 - divergence.skew) * b for a, b in zip(first, second, strict=True)]
            return kl(first, m)
        case "total_variation":
            # Analytic on either side of the kink, as a complex step needs it.
            return sum(((a - b) if (a - b).real >= 0 else (b - a) for a, b in pairs), 0j) / 2
    raise AssertionError(f"no reference for {divergence.kind}")


def naive_hard(loss: Any, student: Sequence[complex], teacher: Floats, label: int, progress: float) -> complex:
    if label == IGNORE_INDEX:
        return 0j
    log_q = naive_log_softmax(student, 1.0)
    smoothing = loss.label_smoothing
    return -(1 - smoothing) * log_q[label] - smoothing * sum(log_q) / len(log_q)


DIVERGENCES = (
    ForwardKL(),
    ReverseKL(),
    GeneralisedJSD(),
    GeneralisedJSD(beta=0.0),
    GeneralisedJSD(beta=0.1),
    GeneralisedJSD(beta=1.0),
    SkewKL(),
    SkewKL(skew=0.0),
    SkewKL(skew=0.3, reverse=True),
    TotalVariation(),
)


@dataclass(frozen=True)
class Reference:
    """The value at one position, analytic in the student's logits, and settings beside the default to try."""

    value: Callable[[Any, Sequence[complex], Floats, int, float], complex]
    variants: tuple[Any, ...]


REFERENCES = {
    "soft_targets": Reference(
        naive_soft,
        (
            SoftTargets(weight=Constant(value=1.0), temperature=Constant(value=1.0)),
            SoftTargets(weight=Cosine(start=0.2, end=0.9), temperature=Cosine(start=1.0, end=3.0)),
            *(SoftTargets(weight=Constant(value=0.6), divergence=divergence) for divergence in DIVERGENCES),
        ),
    ),
    "hard_labels": Reference(
        naive_hard,
        (
            HardLabels(weight=Constant(value=1.0), label_smoothing=0.1),
            HardLabels(weight=Cosine(start=0.9, end=0.1)),
        ),
    ),
}


def kind_of(loss: type[Any]) -> str:
    return str(loss.model_fields["kind"].default)


VARIANTS = [
    pytest.param(variant, id=f"{kind_of(loss)}-{number}")
    for loss in LOSSES
    for number, variant in enumerate(
        (loss(), *(REFERENCES[kind_of(loss)].variants if kind_of(loss) in REFERENCES else ()))
    )
]


@dataclass(frozen=True)
class Case:
    student: Floats
    teacher: Floats
    labels: npt.NDArray[np.int64]
    mask: npt.NDArray[np.bool_]
    progress: float


@st.composite
def cases(draw: st.DrawFn, *, least: int = 1) -> Case:
    positions, classes = draw(st.integers(least, 7)), draw(st.integers(2, 5))
    generator = np.random.default_rng(draw(st.integers(0, 2**20)))
    scale = draw(st.sampled_from([0.1, 1.0, 3.0]))
    labels = generator.integers(0, classes, positions)
    return Case(
        student=generator.normal(size=(positions, classes)) * scale,
        teacher=generator.normal(size=(positions, classes)) * scale,
        labels=np.where(generator.random(positions) < 0.3, IGNORE_INDEX, labels),
        mask=generator.random(positions) < 0.7,
        progress=draw(st.sampled_from([0.0, 0.25, 0.5, 1.0])),
    )


def evaluate(
    losses: Sequence[Any], student: Tensor, teacher: Tensor, labels: Tensor, mask: Tensor, progress: float
) -> tuple[LossSums, Tensor]:
    student = student.detach().clone().requires_grad_()
    batch = Batch(ids=("row",) * labels.numel(), inputs={}, labels=labels, mask=mask)
    driver = MixedLoss([loss.build() for loss in losses])
    sums = driver(Signals(student), Signals(teacher), batch, progress=progress)
    (gradient,) = torch.autograd.grad(sums.total, student)
    return sums, gradient


def run(
    losses: Sequence[Any], case: Case, *, dtype: torch.dtype = torch.float64, mask: Any = None
) -> tuple[float, Floats]:
    sums, gradient = evaluate(
        losses,
        torch.tensor(case.student, dtype=dtype),
        torch.tensor(case.teacher, dtype=dtype),
        torch.tensor(case.labels),
        torch.tensor(case.mask if mask is None else mask),
        case.progress,
    )
    return sums.total.item(), gradient.double().numpy()


def reference(loss: Any, case: Case) -> tuple[float, Floats]:
    """Value and gradient by loops; the gradient by complex steps, which lose no digits."""
    naive, weight = REFERENCES[loss.kind].value, naive_schedule(loss.weight, case.progress)
    total, step = 0.0, 1e-30
    gradient = np.zeros_like(case.student)
    for row, counts in enumerate(case.mask):
        if not counts:
            continue
        given_row = (case.teacher[row], int(case.labels[row]), case.progress)
        plain = [complex(logit) for logit in case.student[row]]
        total += weight * naive(loss, plain, *given_row).real
        for column in range(len(plain)):
            stepped = [logit + (1j * step if column == i else 0) for i, logit in enumerate(plain)]
            gradient[row, column] = weight * naive(loss, stepped, *given_row).imag / step
    return total, gradient
