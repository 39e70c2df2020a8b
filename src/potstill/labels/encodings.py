"""All encodings, and the part of each that is stored once for all rows."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field
from torch import Tensor

from potstill.labels.dense import Dense
from potstill.labels.hidden import Hidden
from potstill.labels.low_rank import LowRank
from potstill.labels.positions import Codec
from potstill.labels.sampled import Sampled
from potstill.labels.top_k import TopK

PositionEncoding = LowRank | Hidden | TopK | Sampled
"""Encodings of language models, which label every trained position of a row."""

AnyEncoding = Annotated[Dense | LowRank | Hidden | TopK | Sampled, Field(discriminator="kind")]


def load_codec(
    encoding: PositionEncoding, tensors: Mapping[str, Tensor], *, vocabulary: int, temperatures: tuple[float, ...]
) -> Codec:
    """The codec of a store, from what was fitted when its labels were made."""
    codec: Codec = encoding.load(tensors, vocabulary, temperatures)
    return codec
