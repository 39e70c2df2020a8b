"""A model in the role of the teacher: frozen, in eval mode, and only asked."""

from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from potstill.divergences import at_least_float32
from potstill.features import capture_features, features_at
from potstill.loaded_as import placed
from potstill.signals import Ask, Batch, Read, Signals
from potstill.targets import Head, HiddenTargets


class FrozenTeacher:
    """`teacher(batch) -> Signals` from a model's forward pass, without gradients, dropout or router noise.

    With the features that are read of it, of the tokens that count. One in half precision computes in its own type,
    also under autocast; what it gives is in float32, or is multiplied so that the sums are.
    """

    def __init__(
        self, model: PreTrainedModel, device: torch.device, ask: Ask, reads: frozenset[Read] = frozenset()
    ) -> None:
        self._model = placed(model, device).eval().requires_grad_(False)
        self._device = device
        self._ask = ask
        self._reads = reads
        self._half = model.dtype.itemsize < 4
        # Its layers may lie on several devices.
        self._mapped = getattr(model, "hf_device_map", None) is not None
        self._head: Head | None = None

    def __call__(self, batch: Batch) -> Signals:
        """The outputs of the model; where these are hidden states, its distributions at the unmasked positions."""
        # Looked at where the batch lies, so that a forward pass on an accelerator is not waited for.
        places = batch.places.to(self._device, non_blocking=True)
        batch = batch.to(self._device)
        # Not inference mode: what it makes may not be kept for a backward pass, and losses on features keep it.
        own_type = torch.autocast(self._device.type, enabled=False) if self._half else nullcontext()
        with torch.no_grad(), own_type, capture_features(self._model, self._reads) as captured:
            outputs = self._ask(self._model, batch)
        outputs = replace(outputs, features=features_at(captured, batch))
        if self._half or self._mapped:
            outputs = self._brought(outputs)
        if outputs.hidden is None or outputs.head is None:
            return outputs
        hidden = outputs.hidden.reshape(-1, outputs.hidden.shape[-1]).index_select(0, places)
        return Signals(target=HiddenTargets(hidden, outputs.head), features=outputs.features)

    def _brought(self, outputs: Signals) -> Signals:
        """The same on this teacher's device and in float32, in which each number of half precision is exact."""
        if outputs.head is not None and self._head is None:
            # A copy, where the device needs one: made once.
            self._head = outputs.head.on(self._device).with_wide_sums()
        return replace(
            outputs,
            logits=None if outputs.logits is None else self._here(outputs.logits),
            mean=None if outputs.mean is None else self._here(outputs.mean),
            hidden=None if outputs.hidden is None else self._here(outputs.hidden),
            head=self._head,
            features={read: self._here(feature) for read, feature in outputs.features.items()},
        )

    def _here(self, values: Tensor) -> Tensor:
        return at_least_float32(values.to(self._device))
