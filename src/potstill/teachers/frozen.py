"""A model in the role of the teacher: frozen, in eval mode, and only asked."""

import torch
from torch import nn

from potstill.signals import Batch, Signals


class FrozenTeacher:
    """`teacher(batch) -> Signals` from a model's forward pass, without gradients, dropout or router noise."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._model = model.to(device).eval().requires_grad_(False)
        self._device = device

    def __call__(self, batch: Batch) -> Signals:
        with torch.inference_mode():
            return Signals(logits=self._model(**batch.to(self._device).inputs).logits)
