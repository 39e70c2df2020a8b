"""The low-rank encoding: the likeliest tokens exactly, and the shape of the tail from a few numbers.

Logits are W h + b, so they have the rank of the hidden state; most of what softmax makes of them has far less. The
hidden states of a sample are decomposed by PCA in the metric of the logits, and a position is stored as its first
components, 8 bits each. The body gives the odds within the tail; head and mass of the tail are exact.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from potstill.capabilities import Facts
from potstill.labels.checks import refused_positions
from potstill.labels.exact_head import ExactHead
from potstill.labels.positions import Column, TensorColumns
from potstill.labels.principal_components import components, head_of_components, rounded
from potstill.settings import Settings
from potstill.targets import Head, HiddenTargets, Target


class LowRank(Settings):
    """The likeliest tokens exactly, the mass of the tail at each temperature, and its shape from `rank` numbers."""

    kind: Literal["low_rank"] = "low_rank"
    whole: ClassVar[bool] = True
    head: int = Field(default=32, ge=1)
    """Tokens whose probability is exact."""
    rank: int = Field(default=64, ge=1)
    """Components of the hidden state, a byte each."""

    def refusals(self, where: str, facts: Facts) -> Iterator[str]:
        yield from refused_positions(self.kind, where, facts)

    def columns(self, vocabulary: int, width: int, temperatures: tuple[float, ...]) -> Mapping[str, Column]:
        exact = ExactHead(min(self.head, vocabulary), vocabulary, temperatures).columns
        return {"codes": Column(np.int8, min(self.rank, width))} | dict(exact)

    def fit(
        self, hidden: Float[Tensor, "positions width"], head: Head, temperatures: tuple[float, ...]
    ) -> "LowRankCodec":
        """The codec for a teacher, from the hidden states of a sample: about 3,000 positions are enough."""
        tensors = components(hidden.float(), head, min(self.rank, hidden.shape[1]))
        return self.load(tensors, len(head.weight), temperatures)

    def load(self, tensors: Mapping[str, Tensor], vocabulary: int, temperatures: tuple[float, ...]) -> "LowRankCodec":
        return LowRankCodec(ExactHead(min(self.head, vocabulary), vocabulary, temperatures), dict(tensors))


@dataclass(frozen=True, eq=False)
class LowRankCodec:
    head: ExactHead
    tensors: Mapping[str, Tensor]
    _moved: dict[tuple[torch.device, str], Tensor] = field(default_factory=dict)

    @property
    def columns(self) -> Mapping[str, Column]:
        return {"codes": Column(np.int8, self.tensors["factor"].shape[1])} | dict(self.head.columns)

    def encode(
        self, hidden: Float[Tensor, "positions width"], logits: Float[Tensor, "positions vocabulary"]
    ) -> TensorColumns:
        project, mean = (self._on(hidden.device, name) for name in ("project", "mean"))
        return {"codes": rounded((hidden.float() - mean) @ project)} | self.head.encode(logits)

    def target(self, columns: Mapping[str, Tensor]) -> Target:
        device = columns["codes"].device
        head = head_of_components(self._on(device, "factor"), self._on(device, "offset"), self.tensors)
        return HiddenTargets(columns["codes"], head, self.head.mass(columns))

    def _on(self, device: torch.device, name: str) -> Tensor:
        """A tensor on the device where it is read, moved there once."""
        if (device, name) not in self._moved:
            self._moved[device, name] = self.tensors[name].to(device)
        return self._moved[device, name]
