"""Stored labels in the role of the teacher."""

import torch

from potstill.labels.store import LabelStore
from potstill.signals import Batch, Signals


class StoredTeacher:
    """`teacher(batch) -> Signals` from a label store, by the ids of the batch."""

    def __init__(self, store: LabelStore, device: torch.device) -> None:
        self._store = store
        self._device = device

    def __call__(self, batch: Batch) -> Signals:
        logits = torch.from_numpy(self._store.logits(batch.ids)).to(self._device)
        return Signals(logits=logits.float())
