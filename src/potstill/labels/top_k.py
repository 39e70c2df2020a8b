"""The top-k encoding: the likeliest tokens and one bucket for the rest. Right near temperature 1."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from potstill.capabilities import Facts
from potstill.labels.checks import refused_positions
from potstill.labels.exact_head import ExactHead
from potstill.labels.positions import Column, TensorColumns
from potstill.settings import Settings
from potstill.targets import Head, Target, TopKTargets


class TopK(Settings):
    """k tokens with their logits, and the mass of the others at each temperature."""

    kind: Literal["top_k"] = "top_k"
    whole: ClassVar[bool] = False
    k: int = Field(default=32, ge=1)

    def refusals(self, where: str, facts: Facts) -> Iterator[str]:
        yield from refused_positions(self.kind, where, facts, fitted=False)

    def columns(self, vocabulary: int, width: int, temperatures: tuple[float, ...]) -> Mapping[str, Column]:
        return ExactHead(min(self.k, vocabulary), vocabulary, temperatures).columns

    def fit(self, hidden: Float[Tensor, "positions width"], head: Head, temperatures: tuple[float, ...]) -> "TopKCodec":
        return self.load({}, len(head.weight), temperatures)

    def load(self, tensors: Mapping[str, Tensor], vocabulary: int, temperatures: tuple[float, ...]) -> "TopKCodec":
        return TopKCodec(ExactHead(min(self.k, vocabulary), vocabulary, temperatures))


@dataclass(frozen=True)
class TopKCodec:
    head: ExactHead

    @property
    def columns(self) -> Mapping[str, Column]:
        return self.head.columns

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        return {}

    def encode(
        self, hidden: Float[Tensor, "positions width"], logits: Float[Tensor, "positions vocabulary"]
    ) -> TensorColumns:
        return self.head.encode(logits)

    def target(self, columns: Mapping[str, Tensor]) -> Target:
        return TopKTargets(self.head.mass(columns))
