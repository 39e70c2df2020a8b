"""The driver that evaluates all logit losses of a recipe together, and their weighted sum."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from potstill.losses.reduction import masked_sum
from potstill.signals import Batch, LogitLoss, Signals


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
        student_logits = student.logits.reshape(-1, classes)
        teacher_logits = None if teacher.logits is None else teacher.logits.reshape(-1, classes)
        labels, mask = batch.labels.reshape(-1), batch.mask.reshape(-1)
        total = torch.zeros((), dtype=torch.float32, device=student_logits.device)
        parts: dict[str, Tensor] = {}
        for loss in self.losses:
            values = loss.per_position(student_logits, teacher_logits, labels, progress=progress)
            part = masked_sum(values, mask)
            total = total + loss.weight_at(progress) * part
            parts[loss.name] = part.detach()
        return LossSums(total, parts)
