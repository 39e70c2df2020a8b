"""A moving average of the student as its teacher."""

import copy

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from potstill.signals import Ask, Batch, Read, Signals
from potstill.teachers.frozen import FrozenTeacher


class MovingAverage(nn.Module):
    """`teacher(batch) -> Signals` from `decay * average + (1 - decay) * student`, updated after steps.

    A module, so that checkpoints hold its weights and a broken job goes on with the same teacher. In its first steps
    the average is over those that there were: with a fixed decay it would remember the start for a thousand of them.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        device: torch.device,
        ask: Ask,
        reads: frozenset[Read] = frozenset(),
        *,
        decay: float,
        every: int,
    ) -> None:
        super().__init__()
        # Weights that no step changes are their own average, and need not be there twice.
        frozen = {id(parameter): parameter for parameter in student.parameters() if not parameter.requires_grad}
        self.model = copy.deepcopy(student, frozen)
        self._frozen = FrozenTeacher(self.model, device, ask, reads)
        self._decay = decay
        self._every = every
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.steps: Tensor

    def forward(self, batch: Batch) -> Signals:
        return self._frozen(batch)

    def train(self, mode: bool = True) -> "MovingAverage":
        # Part of what is trained, and yet never in training mode: a teacher has no dropout.
        return super().train(False)

    @torch.no_grad()
    def after_step(self, student: nn.Module) -> None:
        """Take the student's weights into the average, when it is time."""
        self.steps += 1
        taken, late = divmod(int(self.steps), self._every)
        if late:
            return
        decay = min(self._decay, (1 + taken) / (10 + taken))
        for average, new in zip(self.model.parameters(), student.parameters(), strict=True):
            if average is not new:
                average.lerp_(new.to(average.dtype), 1 - decay)
        for kept, now in zip(self.model.buffers(), student.buffers(), strict=True):
            kept.copy_(now)
