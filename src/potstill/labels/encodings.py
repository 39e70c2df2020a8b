"""All encodings, and the part of each that is stored once for all rows."""

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from potstill.capabilities import Facts
from potstill.labels.checks import refused_positions
from potstill.labels.dense import Dense, DensePositions
from potstill.labels.hidden import Hidden
from potstill.labels.low_rank import LowRank
from potstill.labels.positions import Codec, Column, bytes_per_position
from potstill.labels.sampled import Sampled
from potstill.labels.states import States
from potstill.labels.top_k import TopK
from potstill.settings import Settings

PositionEncoding = LowRank | Hidden | TopK | Sampled
"""Encodings of language models, which label every trained position of a row."""

AnyEncoding = Annotated[
    Dense | DensePositions | LowRank | Hidden | TopK | Sampled | States, Field(discriminator="kind")
]
"""What a store can hold."""


class Auto(Settings):
    """The smallest encoding whose measured error is within `label.max_kl`, for language models."""

    kind: Literal["auto"] = "auto"
    whole: ClassVar[bool] = False

    def refusals(self, where: str, facts: Facts) -> Iterator[str]:
        yield from refused_positions(self.kind, where, facts)
        if facts.generative and not facts.online and not facts.bounded:
            yield f"{where}: auto chooses by label.max_kl, which is null. Set it."

    def columns(self, vocabulary: int, width: int, temperatures: tuple[float, ...]) -> Mapping[str, Column]:
        """Of the largest that can be chosen."""
        columns = [each.columns(vocabulary, width, temperatures) for each in CANDIDATES]
        return max(columns, key=bytes_per_position)


AskedEncoding = Annotated[Dense | LowRank | Hidden | TopK | Sampled | Auto, Field(discriminator="kind")]
"""What a recipe can ask for."""

CANDIDATES: tuple[PositionEncoding, ...] = (
    TopK(k=16),
    TopK(k=32),
    LowRank(head=16, rank=32),
    LowRank(),
    LowRank(rank=128),
    LowRank(rank=256),
    Hidden(),
)
"""What `auto` chooses from, and what is proposed where another encoding loses too much."""


def load_codec(
    encoding: PositionEncoding, tensors: Mapping[str, Tensor], *, vocabulary: int, temperatures: tuple[float, ...]
) -> Codec:
    """The codec of a store, from what was fitted when its labels were made."""
    codec: Codec = encoding.load(tensors, vocabulary, temperatures)
    return codec
