"""Stored labels in the role of the teacher."""

import torch

from potstill.errors import LabelStoreError
from potstill.labels.store import LabelStore
from potstill.signals import Batch, Signals


class StoredTeacher:
    """`teacher(batch) -> Signals` from a label store, by the ids of the batch."""

    def __init__(self, store: LabelStore, device: torch.device) -> None:
        self._store = store
        self._device = device

    def __call__(self, batch: Batch) -> Signals:
        """The logits of the rows, or the distributions at the unmasked positions.

        Raises:
            LabelStoreError: a row without labels, or with labels of another number of positions.
        """
        if self._store.codec is None:
            logits = torch.from_numpy(self._store.logits(batch.ids)).to(self._device)
            return Signals(logits=logits.float())
        if not batch.mask.any():
            # A process without rows in this step has a batch of which nothing counts.
            return Signals()
        columns, counts = self._store.positions(batch.ids)
        trained = int(batch.mask.sum())
        if sum(counts) != trained:
            raise LabelStoreError(
                f"{self._store.folder}: labels for {sum(counts)} positions of rows {batch.ids[0]!r} and the "
                f"{len(batch.ids) - 1} after it, which train {trained}. The rows were made to tokens in another way "
                "when they were labelled; run potstill label again."
            )
        tensors = {name: torch.from_numpy(values).to(self._device) for name, values in columns.items()}
        return Signals(target=self._store.codec.target(tensors))
