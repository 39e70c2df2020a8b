"""From the outputs of a teacher for a batch to what a store holds of its rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from potstill.errors import LabelStoreError
from potstill.labels.dense import Dense, DensePositions
from potstill.labels.positions import TensorColumns
from potstill.labels.states import States
from potstill.labels.top_k import TopK, TopKCodec
from potstill.labels.writer import Fitted, StoreEncoding
from potstill.signals import Batch, Features, LabelPositions
from potstill.targets import Buckets, Head, SparseTarget

Outputs = TypeVar("Outputs", contravariant=True)
PositionRows = tuple[list[int], TensorColumns]
"""The number of positions of each row, and their columns one row after the other."""
MASS_TOLERANCE = 0.01
"""How far above one the probabilities of a position may sum, for those that come in half precision."""


@runtime_checkable
class RowEncoder(Protocol[Outputs]):
    """Makes labels of a teacher's outputs."""

    @property
    def encoding(self) -> StoreEncoding:
        """That of the store."""
        ...

    def encode(self, outputs: Outputs, batch: Batch) -> Any:
        """The labels of these rows, as the layout of the store makes records of them once they are on the host."""
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
        """The labels of these rows.

        Raises:
            LabelStoreError: what was given is no distribution; names the row and its position.
        """
        codec = self.encoding.codec
        assert isinstance(codec, TopKCodec)
        counts: list[int] = batch.mask.sum(dim=1).tolist()
        buckets = outputs.buckets_at(slice(None), 1.0)
        _require_distributions(buckets, codec.head.k, self.encoding.vocabulary, batch.ids, counts)
        return counts, codec.head.encode_given(buckets)


def _require_distributions(
    buckets: Buckets, k: int, vocabulary: int, rows: Sequence[str], counts: Sequence[int]
) -> None:
    """Raises LabelStoreError: logits in the place of log-probabilities, tokens twice, in another order or unknown."""
    ids, log_probs = buckets.ids, buckets.log_head
    if len(ids) != sum(counts):
        raise LabelStoreError(
            f"The teacher answered for {len(ids)} positions of ids {rows[0]} to {rows[-1]}, and {sum(counts)} are "
            "learnt. Rows not written. It must answer once for each token that is learnt."
        )
    if ids.shape[1] < k:
        raise LabelStoreError(
            f"The teacher gives {ids.shape[1]} tokens, and label.encoding keeps {k}. Rows not written. Set k to "
            f"{ids.shape[1]} or less, or ask the teacher for more."
        )
    ordered = ids.sort(dim=1).values
    for wrong, what in (
        (~torch.isfinite(log_probs), "a log-probability that is not finite"),
        (log_probs.exp().sum(dim=1, keepdim=True) > 1 + MASS_TOLERANCE, "probabilities that sum to more than one"),
        ((ids < 0) | (ids >= vocabulary), f"a token that is not one of the {vocabulary} of the vocabulary"),
        (ordered[:, 1:] == ordered[:, :-1], "a token twice"),
        (log_probs[:, 1:] > log_probs[:, :-1], "tokens that are not in order, the likeliest first"),
    ):
        positions = wrong.any(dim=1).nonzero()
        if len(positions):
            first = int(positions[0])
            row = int(np.searchsorted(np.cumsum(counts), first, side="right"))
            raise LabelStoreError(
                f"The teacher gave {what}: id {rows[row]} position {first - sum(counts[:row])}. Rows not written. It "
                "must give log-probabilities at temperature 1, each with its token id."
            )


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


def encode_positions(fitted: Fitted, hidden: Float[Tensor, "positions width"], head: Head) -> TensorColumns:
    """The columns of these positions, of which a few have their logits at a time."""
    pieces = [fitted.codec.encode(piece, head.logits(piece)) for piece in torch.split(hidden, head.chunk_rows)]
    return {name: torch.cat([piece[name] for piece in pieces]) for name in fitted.columns}
