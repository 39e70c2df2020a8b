"""A model in the role of the teacher: frozen, in eval mode, and only asked."""

import torch
from torch import nn

from potstill.signals import Ask, Batch, Signals
from potstill.targets import HiddenTargets


class FrozenTeacher:
    """`teacher(batch) -> Signals` from a model's forward pass, without gradients, dropout or router noise."""

    def __init__(self, model: nn.Module, device: torch.device, ask: Ask) -> None:
        self._model = model.to(device).eval().requires_grad_(False)
        self._device = device
        self._ask = ask

    def __call__(self, batch: Batch) -> Signals:
        """What the model says; where it speaks by hidden states, its distributions at the unmasked positions."""
        batch = batch.to(self._device)
        with torch.inference_mode():
            said = self._ask(self._model, batch)
        if said.hidden is None or said.head is None:
            return said
        hidden = said.hidden.reshape(-1, said.hidden.shape[-1])[batch.mask.reshape(-1)]
        return Signals(target=HiddenTargets(hidden, said.head))
