"""A model in the role of the teacher: frozen, in eval mode, and only asked."""

from dataclasses import replace

import torch
from transformers import PreTrainedModel

from potstill.features import capture_features, features_at
from potstill.signals import Ask, Batch, Read, Signals
from potstill.targets import HiddenTargets


class FrozenTeacher:
    """`teacher(batch) -> Signals` from a model's forward pass, without gradients, dropout or router noise.

    With the features that are read of it, of the tokens that count.
    """

    def __init__(
        self, model: PreTrainedModel, device: torch.device, ask: Ask, reads: frozenset[Read] = frozenset()
    ) -> None:
        self._model = model.to(device).eval().requires_grad_(False)
        self._device = device
        self._ask = ask
        self._reads = reads

    def __call__(self, batch: Batch) -> Signals:
        """The outputs of the model; where these are hidden states, its distributions at the unmasked positions."""
        # Looked at where the batch lies, so that a forward pass on an accelerator is not waited for.
        places = batch.places.to(self._device, non_blocking=True)
        batch = batch.to(self._device)
        # Not inference mode: what it makes may not be kept for a backward pass, and losses on features keep it.
        with torch.no_grad(), capture_features(self._model, self._reads) as captured:
            outputs = self._ask(self._model, batch)
        outputs = replace(outputs, features=features_at(captured, batch))
        if outputs.hidden is None or outputs.head is None:
            return outputs
        hidden = outputs.hidden.reshape(-1, outputs.hidden.shape[-1]).index_select(0, places)
        return Signals(target=HiddenTargets(hidden, outputs.head), features=outputs.features)
