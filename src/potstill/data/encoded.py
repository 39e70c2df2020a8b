"""Rows as token ids, ready to be collated into batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from potstill.models import Part
from potstill.signals import Batch

TOKEN_TYPES = "token_type_ids"
"""The input that tells a model of which of two texts a token is."""


@runtime_checkable
class BatchSource(Protocol):
    """Rows that can be batched by index; the loop and the iterator know no more of them."""

    @property
    def lengths(self) -> Sequence[int]: ...

    def collate(self, indices: Sequence[int]) -> Batch: ...


@runtime_checkable
class Encoded(BatchSource, Protocol):
    """Rows of a task as it encodes them."""

    @property
    def ids(self) -> Sequence[str]: ...

    @property
    def positions(self) -> Sequence[int]:
        """How many positions count of each of `ids`."""
        ...

    @property
    def row_ids(self) -> Sequence[str]:
        """The row of data that each of `ids` is of, or is a part of."""
        ...

    @property
    def truncated(self) -> int:
        """Rows of which something was cut or left out."""
        ...

    def feature_sizes(self, part: Part) -> Iterator[tuple[int, int]]:
        """For each example the tokens that count in a loss on features of a stack, and the keys that each may see."""
        ...


@dataclass(frozen=True)
class EncodedRows:
    """Token ids of rows that are labelled as a whole. `labels` is as in a `Batch`."""

    ids: tuple[str, ...]
    tokens: list[npt.NDArray[np.int32]]
    labels: npt.NDArray[np.int64] | npt.NDArray[np.float32]
    """A class for each row, rows x labels in {0, 1} where a row has several, or numbers."""
    pad_id: int
    truncated: int
    types: list[npt.NDArray[np.int8]] | None = None
    """Of which of two texts each token is, where the rows are pairs and the model is told."""

    @cached_property
    def lengths(self) -> Sequence[int]:
        return [len(tokens) for tokens in self.tokens]

    @property
    def positions(self) -> Sequence[int]:
        return [self.labels[0].size if len(self.labels) else 0] * len(self.ids)

    @property
    def row_ids(self) -> Sequence[str]:
        return self.ids

    def feature_sizes(self, part: Part) -> Iterator[tuple[int, int]]:
        """Every token of a row counts, and sees all others."""
        return ((length, length) for length in self.lengths)

    def collate(self, indices: Sequence[int]) -> Batch:
        """Rows `indices` padded on the right to the longest among them; the padding is not attended to."""
        longest = max(len(self.tokens[index]) for index in indices)
        input_ids = np.full((len(indices), longest), self.pad_id, dtype=np.int64)
        attention = np.zeros((len(indices), longest), dtype=np.int64)
        for place, index in enumerate(indices):
            tokens = self.tokens[index]
            input_ids[place, : len(tokens)] = tokens
            attention[place, : len(tokens)] = 1
        inputs = {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(attention)}
        if self.types is not None:
            types = np.zeros_like(input_ids)
            for place, index in enumerate(indices):
                types[place, : len(self.types[index])] = self.types[index]
            inputs[TOKEN_TYPES] = torch.from_numpy(types)
        labels = torch.from_numpy(self.labels[list(indices)])
        return Batch(
            ids=tuple(self.ids[index] for index in indices),
            inputs=inputs,
            labels=labels,
            mask=torch.ones_like(labels, dtype=torch.bool),
            whole_rows=True,
        )

    def select(self, indices: Sequence[int]) -> "EncodedRows":
        return EncodedRows(
            ids=tuple(self.ids[index] for index in indices),
            tokens=[self.tokens[index] for index in indices],
            labels=self.labels[list(indices)],
            pad_id=self.pad_id,
            truncated=self.truncated,
            types=None if self.types is None else [self.types[index] for index in indices],
        )
