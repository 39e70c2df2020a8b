"""The driver that evaluates all logit losses of a recipe together, and their weighted sum."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from potstill.losses.reduction import blank_masked, masked_sum
from potstill.signals import IGNORE_INDEX, Batch, LogitLoss, Signals


@dataclass(frozen=True)
class LossSums:
    """Sums over the positions of a batch: the loop divides by the positions of the whole step."""

    total: Float[Tensor, ""]
    parts: dict[str, Tensor]


class MixedLoss:
    """`sum of weight_i * loss_i`, each summed over the unmasked positions.

    All losses are divided by one count, that of the positions, so a row's loss is
    `alpha * soft + (1 - alpha) * hard`, where hard is 0 for an unlabelled row, however rows fall into batches.
    """

    def __init__(self, losses: Sequence[LogitLoss]) -> None:
        self.losses = tuple(losses)

    def __call__(self, student: Signals, teacher: Signals, batch: Batch, *, progress: float) -> LossSums:
        assert student.logits is not None
        classes = student.logits.shape[-1]
        mask = batch.mask.reshape(-1)
        student_logits = blank_masked(student.logits.reshape(-1, classes), mask)
        teacher_logits = None
        if teacher.logits is not None:
            teacher_logits = blank_masked(teacher.logits.reshape(-1, classes), mask)
        labels = batch.labels.reshape(-1).where(mask, IGNORE_INDEX)
        total = torch.zeros((), dtype=torch.float32, device=student_logits.device)
        parts: dict[str, Tensor] = {}
        for loss in self.losses:
            values = loss.per_position(student_logits, teacher_logits, labels, progress=progress)
            part = masked_sum(values, mask)
            total = total + loss.weight_at(progress) * part
            parts[loss.name] = part.detach()
        return LossSums(total, parts)
