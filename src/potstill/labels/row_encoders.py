"""From the outputs of a teacher for a batch to what a store holds of its rows."""

from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from potstill.labels.dense import Dense, DensePositions
from potstill.labels.positions import Columns
from potstill.labels.states import States
from potstill.labels.top_k import TopK, TopKCodec
from potstill.labels.writer import Fitted, StoreEncoding
from potstill.signals import Batch, Features, LabelPositions
from potstill.targets import Head, SparseTarget

Outputs = TypeVar("Outputs", contravariant=True)
PositionRows = tuple[list[int], Columns]
"""The number of positions of each row, and their columns one row after the other."""


@runtime_checkable
class RowEncoder(Protocol[Outputs]):
    """Makes labels of a teacher's outputs."""

    @property
    def encoding(self) -> StoreEncoding:
        """That of the store."""
        ...

    def encode(self, outputs: Outputs, batch: Batch) -> Any:
        """The labels of these rows, as the layout of the store makes records of them."""
        ...


@dataclass(frozen=True)
class WholeRows:
    """Labels of rows as a whole."""

    encoding: Dense

    def encode(self, outputs: Float[Tensor, "rows outputs"], batch: Batch) -> Tensor:
        return outputs


@dataclass(frozen=True)
class WordsOfRows:
    """Labels of the words that count, row by row."""

    encoding: DensePositions

    def encode(self, outputs: Float[Tensor, "words classes"], batch: Batch) -> PositionRows:
        counts: list[int] = batch.mask.sum(dim=1).tolist()
        return counts, self.encoding.encode(outputs)


@dataclass(frozen=True)
class TokensOfRows:
    """Labels of the tokens that a model learns to write, of its last hidden states there."""

    encoding: Fitted
    head: Head

    def encode(self, outputs: Float[Tensor, "positions width"], batch: Batch) -> PositionRows:
        counts: list[int] = batch.mask.sum(dim=1).tolist()
        return counts, encode_positions(self.encoding, outputs, self.head)


@dataclass(frozen=True)
class GivenTokens:
    """Labels of such tokens, of the log-probabilities that a teacher gives of its likeliest ones."""

    encoding: Fitted

    def encode(self, outputs: SparseTarget, batch: Batch) -> PositionRows:
        codec = self.encoding.codec
        assert isinstance(codec, TopKCodec)
        counts: list[int] = batch.mask.sum(dim=1).tolist()
        return counts, codec.head.encode_given(outputs.buckets_at(slice(None), 1.0))


def given_encoder(encoding: TopK, vocabulary: int) -> GivenTokens:
    """The encoder of a teacher that gives its likeliest tokens; what it does not give, it cannot lose."""
    grid = (1.0,)
    return GivenTokens(Fitted(encoding, encoding.load({}, vocabulary, grid), vocabulary, grid, ()))


@dataclass(frozen=True)
class StatesOfRows:
    """Hidden states of layers at each token that counts in a loss on features."""

    encoding: States

    def encode(self, outputs: Features, batch: Batch) -> PositionRows:
        counts: list[int] = batch.tokens_of(self.encoding.part).sum(dim=1).tolist()
        return counts, self.encoding.encode(outputs)


def dense_encoder(encoding: Dense, positions: LabelPositions, classes: int) -> RowEncoder[Tensor]:
    """All logits of each row, or of each of its words."""
    assert positions != "tokens", "logits of a vocabulary are never stored whole"
    if positions == "rows":
        return WholeRows(encoding)
    return WordsOfRows(DensePositions(dtype=encoding.dtype, classes=classes))


def encode_positions(fitted: Fitted, hidden: Float[Tensor, "positions width"], head: Head) -> Columns:
    """The columns of these positions, of which a few have their logits at a time."""
    pieces = [fitted.codec.encode(piece, head.logits(piece)) for piece in torch.split(hidden, head.chunk_rows)]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in fitted.columns}
