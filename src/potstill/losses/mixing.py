"""The driver that evaluates all losses of a recipe together, and their weighted sum.

Where the student gives logits, each logit loss is differentiated by autograd. Where it gives hidden states and its
head, the logits of a language model never exist as a whole, and the chunked core computes values and gradients. Losses
on features are differentiated by autograd in either case.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from potstill.losses.chunked import chunked_loss
from potstill.losses.kernels import Kernels
from potstill.losses.reduction import blank_masked, masked_sum
from potstill.losses.terms import TermLoss
from potstill.signals import IGNORE_INDEX, Batch, FeatureLoss, LogitLoss, Read, Signals, TeacherAt, ValueLoss
from potstill.targets import FullTarget


@dataclass(frozen=True)
class LossSums:
    """Sums over the positions of a batch: the loop divides by the positions of the whole step."""

    total: Float[Tensor, ""]
    parts: dict[str, Tensor]


class MixedLoss(nn.Module):
    """`sum of weight_i * loss_i`, each summed over the unmasked positions, or over tokens whose weights sum to them.

    All losses are divided by one count, that of the positions, so a row's loss is
    `alpha * soft + (1 - alpha) * hard`, where hard is 0 for an unlabelled row, however rows fall into batches.
    """

    def __init__(self, losses: Sequence[LogitLoss | FeatureLoss], *, compiled: bool = False) -> None:
        super().__init__()
        self.losses = tuple(losses)
        self._logit_losses = [loss for loss in self.losses if isinstance(loss, LogitLoss)]
        self._feature_losses = [loss for loss in self.losses if isinstance(loss, FeatureLoss)]
        # Their parameters are trained and checkpointed with the student.
        self.learned = nn.ModuleDict({loss.name: loss for loss in self.losses if isinstance(loss, nn.Module)})
        self._kernels = Kernels(compiled=compiled)

    @property
    def reads_outputs(self) -> bool:
        """Whether a loss reads the outputs of the student, and not only features on the way to them."""
        return len(self._feature_losses) < len(self.losses)

    @property
    def student_reads(self) -> frozenset[Read]:
        """The features of the student that the losses compare."""
        return frozenset().union(*(loss.student_reads for loss in self._feature_losses))

    @property
    def teacher_reads(self) -> frozenset[Read]:
        """The features of the teacher that the losses compare."""
        return frozenset().union(*(loss.teacher_reads for loss in self._feature_losses))

    def forward(self, student: Signals, teacher: Signals, batch: Batch, *, progress: float) -> LossSums:
        """The sums of all losses over the batch."""
        if student.mean is not None:
            sums = self._from_means(student.mean, teacher, batch, progress)
        elif student.logits is not None:
            sums = self._from_logits(student.logits, teacher, batch, progress)
        else:
            sums = self._from_hidden(student, teacher, batch, progress)
        return self._with_features(sums, student, teacher, batch, progress) if self._feature_losses else sums

    def _with_features(
        self, sums: LossSums, student: Signals, teacher: Signals, batch: Batch, progress: float
    ) -> LossSums:
        total, parts = sums.total, dict(sums.parts)
        for loss in self._feature_losses:
            # All that a loss compares is of the same tokens.
            weights = batch.weights_of(next(iter(loss.student_reads)).part)
            weights = weights[weights > 0]
            part = (loss.per_token(student.features, teacher.features) * weights).sum()
            total = total + loss.weight_at(progress) * part
            parts[loss.name] = part.detach()
        return LossSums(total, parts)

    def _from_logits(
        self, logits: Float[Tensor, "*batch classes"], teacher: Signals, batch: Batch, progress: float
    ) -> LossSums:
        classes = logits.shape[-1]
        mask = batch.mask.reshape(-1)
        student_logits = blank_masked(logits.reshape(-1, classes), mask)
        teacher_at = self._teacher_at(teacher, mask, classes)
        labels = batch.labels.reshape(-1).where(mask, IGNORE_INDEX)
        total = torch.zeros((), dtype=torch.float32, device=student_logits.device)
        parts: dict[str, Tensor] = {}
        for loss in self._logit_losses:
            values = loss.per_position(student_logits, teacher_at, labels, progress=progress)
            part = masked_sum(values, mask)
            total = total + loss.weight_at(progress) * part
            parts[loss.name] = part.detach()
        return LossSums(total, parts)

    def _from_means(self, means: Float[Tensor, "*batch"], teacher: Signals, batch: Batch, progress: float) -> LossSums:
        mask = batch.mask.reshape(-1)
        student_means = means.reshape(-1).where(mask, 0.0)
        taught = None if teacher.mean is None else teacher.mean.reshape(-1).where(mask, 0.0)
        labels = batch.labels.reshape(-1).where(mask, math.nan)
        total = torch.zeros((), dtype=torch.float32, device=student_means.device)
        parts: dict[str, Tensor] = {}
        for loss in self._logit_losses:
            if not isinstance(loss, ValueLoss):
                raise ValueError(f"{loss.name} is between distributions over classes, and these models say numbers")
            part = masked_sum(loss.per_value(student_means, taught, labels, progress=progress), mask)
            total = total + loss.weight_at(progress) * part
            parts[loss.name] = part.detach()
        return LossSums(total, parts)

    def _teacher_at(self, teacher: Signals, mask: Bool[Tensor, "positions"], classes: int) -> TeacherAt | None:
        if teacher.logits is not None:
            logits = blank_masked(teacher.logits.reshape(-1, classes), mask)
            return lambda temperature: logits
        if not isinstance(target := teacher.target, FullTarget):
            # A store has no labels for a batch of which nothing counts, as a process without rows has.
            nothing = None if mask.any() else torch.zeros(len(mask), classes, device=mask.device)
            return None if nothing is None else lambda temperature: nothing

        def at(temperature: float) -> Tensor:
            unmasked = target.logits_at(slice(None), temperature, self._kernels.log_sum_exp)
            return unmasked.new_zeros(len(mask), classes).masked_scatter(mask[:, None], unmasked)

        return at

    def _from_hidden(self, student: Signals, teacher: Signals, batch: Batch, progress: float) -> LossSums:
        assert student.hidden is not None and student.head is not None
        # Only the positions that count go on: a prompt costs neither head nor loss.
        places = batch.places
        hidden = student.hidden.reshape(-1, student.hidden.shape[-1]).index_select(0, places)
        terms = []
        for loss in self._logit_losses:
            if not isinstance(loss, TermLoss):
                raise ValueError(f"{loss.name} needs whole logits, which a language model does not give")
            terms.append(loss.term_at(progress))
        if not terms:
            return LossSums(torch.zeros((), dtype=torch.float32, device=hidden.device), {})
        labels = batch.labels.reshape(-1).index_select(0, places)
        found = chunked_loss(hidden, student.head, labels, teacher.target, terms, kernels=self._kernels)
        return LossSums(found.total, dict(zip((term.name for term in terms), found.parts.unbind(), strict=True)))
