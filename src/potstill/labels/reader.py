"""Stored labels and stored features in the role of the teacher."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from potstill.errors import LabelStoreError
from potstill.labels.dense import Dense, DensePositions
from potstill.labels.packed_ids import require_ids
from potstill.labels.states import States
from potstill.labels.store import LabelStore
from potstill.signals import Batch, Signals


class StoredTeacher:
    """`teacher(batch) -> Signals` from a label store, by the ids of the batch.

    `signals_of` makes distributions of what is stored of whole rows, which are logits unless it says otherwise.
    """

    def __init__(
        self,
        store: LabelStore,
        device: torch.device,
        signals_of: Callable[[Tensor], Signals] = lambda x: Signals(logits=x),
    ) -> None:
        self._store = store
        self._device = device
        self._signals_of = signals_of

    def __call__(self, batch: Batch) -> Signals:
        """The logits of the rows, or the distributions at the unmasked positions.

        Raises:
            LabelStoreError: a row without labels, or with labels of another number of positions.
        """
        encoding = self._store.manifest.encoding
        if isinstance(encoding, Dense):
            logits = torch.from_numpy(self._store.logits(batch.ids)).to(self._device)
            return self._signals_of(logits.float())
        if not batch.mask.any():
            # A process without rows in this step has a batch of which nothing counts.
            return Signals()
        columns, counts = self._store.positions(batch.ids)
        _require(self._store, "labels", batch.ids, counts, batch.mask)
        if isinstance(encoding, DensePositions):
            return Signals(target=encoding.decode(columns, self._device))
        assert self._store.codec is not None
        if self._device.type != "cpu":
            for name, column in self._store.codec.columns.items():
                if column.packed is not None:
                    require_ids(torch.from_numpy(columns[name]), *column.packed)
        tensors = {name: torch.from_numpy(values).to(self._device) for name, values in columns.items()}
        return Signals(target=self._store.codec.target(tensors))


class StoredFeatures:
    """`teacher(batch) -> Signals` with the hidden states of a store, by the ids of the batch."""

    def __init__(self, store: LabelStore, device: torch.device) -> None:
        assert isinstance(store.manifest.encoding, States)
        self._store = store
        self._states = store.manifest.encoding
        self._device = device

    def __call__(self, batch: Batch) -> Signals:
        """The features of the tokens that count.

        Raises:
            LabelStoreError: a row without features, or with those of another number of tokens.
        """
        # Rows of which nothing counts are those of a process without rows in this step.
        ids = batch.ids if batch.mask.any() else ()
        if not ids:
            width = self._states.width
            return Signals(features={s.read: torch.zeros(0, width, device=self._device) for s in self._states.states})
        columns, counts = self._store.positions(ids)
        _require(self._store, "features", ids, counts, batch.tokens_of(self._states.part))
        return Signals(features=self._states.decode(columns, self._device))


def _require(
    store: LabelStore, what: str, ids: Sequence[str], counts: Sequence[int], counted: Bool[Tensor, "rows length"]
) -> None:
    """Compare the stored numbers of positions with those that count; of packed rows, which hold several, their sum.

    Raises:
        LabelStoreError: they differ.
    """
    expected = counted.sum(dim=1).tolist()
    stored = list(counts)
    if len(ids) != len(expected):
        stored, expected = [sum(stored)], [sum(expected)]
    for number, (found, wanted) in enumerate(zip(stored, expected, strict=True)):
        if found != wanted:
            rows = f"row {ids[number]!r}" if len(stored) == len(ids) else f"rows {ids[0]!r} and {len(ids) - 1} more"
            raise LabelStoreError(
                f"{store.folder}: {what} of {found} positions of {rows}, of which {wanted} count. Rows were made to "
                "tokens in another way when they were labelled. Remove this folder and run potstill label again."
            )
