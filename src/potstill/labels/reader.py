"""Stored labels and stored features in the role of the teacher."""

import threading
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from potstill.errors import LabelStoreError
from potstill.labels.dense import Dense, DensePositions
from potstill.labels.host import pinned_for
from potstill.labels.packed_ids import require_ids
from potstill.labels.positions import TensorColumns
from potstill.labels.states import States
from potstill.labels.store import LabelStore
from potstill.signals import Batch, Signals


class _Ready:
    """What was read for batches that are about to be asked about: by their ids, which several may share."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read: dict[tuple[tuple[str, ...], bool], list[TensorColumns]] = {}

    def put(self, batch: Batch, read: TensorColumns | None) -> None:
        if read is not None:
            with self._lock:
                self._read.setdefault(_key(batch), []).append(read)

    def take(self, batch: Batch) -> TensorColumns | None:
        """What was put for such a batch, the earliest first; None where there is nothing."""
        key = _key(batch)
        with self._lock:
            waiting = self._read.get(key, [])
            first = waiting.pop(0) if waiting else None
            if not waiting:
                self._read.pop(key, None)
            return first


def _key(batch: Batch) -> tuple[tuple[str, ...], bool]:
    """The rows, and whether anything of them counts: of those of a process without rows in this step nothing does."""
    return batch.ids, len(batch.places) > 0


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
        self._ready = _Ready()

    def prepare(self, batch: Batch) -> None:
        """Read the labels of a batch that this will be asked about, in another thread.

        Raises:
            LabelStoreError: as where it is asked.
        """
        self._ready.put(batch, self._read(batch))

    def __call__(self, batch: Batch) -> Signals:
        """The logits of the rows, or the distributions at the unmasked positions.

        Raises:
            LabelStoreError: a row without labels, or with labels of another number of positions.
        """
        read = self._ready.take(batch) or self._read(batch)
        if read is None:
            return Signals()
        encoding = self._store.manifest.encoding
        tensors = {name: tensor.to(self._device, non_blocking=True) for name, tensor in read.items()}
        if isinstance(encoding, Dense):
            return self._signals_of(tensors["logits"].float())
        if isinstance(encoding, DensePositions):
            return Signals(target=encoding.decode(tensors))
        assert self._store.codec is not None
        return Signals(target=self._store.codec.target(tensors))

    def _read(self, batch: Batch) -> TensorColumns | None:
        """What is stored of the rows of a batch, on the host; None of one of which nothing counts."""
        if isinstance(self._store.manifest.encoding, Dense):
            return pinned_for({"logits": torch.from_numpy(self._store.logits(batch.ids))}, self._device)
        if not batch.mask.any():
            # A process without rows in this step has a batch of which nothing counts.
            return None
        columns, counts = self._store.positions(batch.ids)
        _require(self._store, "labels", batch.ids, counts, batch.mask)
        tensors = {name: torch.from_numpy(values) for name, values in columns.items()}
        if self._store.codec is not None and self._device.type != "cpu":
            for name, column in self._store.codec.columns.items():
                if column.packed is not None:
                    require_ids(tensors[name], *column.packed)
        return pinned_for(tensors, self._device)


class StoredFeatures:
    """`teacher(batch) -> Signals` with the hidden states of a store, by the ids of the batch."""

    def __init__(self, store: LabelStore, device: torch.device) -> None:
        assert isinstance(store.manifest.encoding, States)
        self._store = store
        self._states = store.manifest.encoding
        self._device = device
        self._ready = _Ready()

    def prepare(self, batch: Batch) -> None:
        """Read the features of a batch that this will be asked about, in another thread.

        Raises:
            LabelStoreError: as where it is asked.
        """
        self._ready.put(batch, self._read(batch))

    def __call__(self, batch: Batch) -> Signals:
        """The features of the tokens that count.

        Raises:
            LabelStoreError: a row without features, or with those of another number of tokens.
        """
        read = self._ready.take(batch) or self._read(batch)
        if read is None:
            width = self._states.width
            return Signals(features={s.read: torch.zeros(0, width, device=self._device) for s in self._states.states})
        return Signals(features=self._states.decode(read, self._device))

    def _read(self, batch: Batch) -> TensorColumns | None:
        """What is stored of the rows of a batch, on the host; None of one of which nothing counts, which is that of a
        process without rows in this step."""
        if not batch.mask.any():
            return None
        columns, counts = self._store.positions(batch.ids)
        _require(self._store, "features", batch.ids, counts, batch.tokens_of(self._states.part))
        return pinned_for({name: torch.from_numpy(values) for name, values in columns.items()}, self._device)


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
