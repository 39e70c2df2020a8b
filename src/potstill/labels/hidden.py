"""The hidden encoding: last hidden states beside an exact head. Right at every temperature of the grid.

States are rotated into components in the metric of the logits, and each has 8 bits. The first have most of what the
logits are made of, so their rounding is most of the error: they get 8 bits more. Many positions have some component
that is larger than any of the sample was; their steps are stretched to hold it, since cutting it off costs more.
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
from potstill.labels.principal_components import LEVELS, components, head_of_components, rounded
from potstill.settings import Settings
from potstill.targets import Head, HiddenTargets, Target

FINE = 64
"""Components with 16 bits."""


class Hidden(Settings):
    """Last hidden states, a byte a component; the map to logits once; the likeliest tokens and the tail exactly."""

    kind: Literal["hidden"] = "hidden"
    whole: ClassVar[bool] = True
    head: int = Field(default=16, ge=1)
    """Tokens whose probability is exact."""

    def refusals(self, where: str, facts: Facts) -> Iterator[str]:
        yield from refused_positions(self.kind, where, facts)

    def columns(self, vocabulary: int, width: int, temperatures: tuple[float, ...]) -> Mapping[str, Column]:
        return _columns(width, ExactHead(min(self.head, vocabulary), vocabulary, temperatures))

    def fit(
        self, hidden: Float[Tensor, "positions width"], head: Head, temperatures: tuple[float, ...]
    ) -> "HiddenCodec":
        tensors = components(hidden.float(), head, hidden.shape[1])
        return self.load(tensors, len(head.weight), temperatures)

    def load(self, tensors: Mapping[str, Tensor], vocabulary: int, temperatures: tuple[float, ...]) -> "HiddenCodec":
        return HiddenCodec(ExactHead(min(self.head, vocabulary), vocabulary, temperatures), dict(tensors))


@dataclass(frozen=True, eq=False)
class HiddenCodec:
    head: ExactHead
    tensors: Mapping[str, Tensor]
    _moved: dict[torch.device, dict[str, Tensor]] = field(default_factory=dict)

    @property
    def columns(self) -> Mapping[str, Column]:
        return _columns(len(self.tensors["mean"]), self.head)

    def encode(
        self, hidden: Float[Tensor, "positions width"], logits: Float[Tensor, "positions vocabulary"]
    ) -> TensorColumns:
        there = self._on(hidden.device)
        steps = (hidden.float() - there["mean"]) @ there["project"]
        # A little more than is needed, so that half precision does not round it to less.
        stretch = (steps.abs().amax(dim=1, keepdim=True) * (1.001 / LEVELS)).clamp(min=1).half()
        steps /= stretch
        codes = rounded(steps)
        # Half a step is the most that rounding leaves.
        fine = rounded((steps - codes)[:, :FINE] * (2 * LEVELS))
        return {"codes": codes, "fine": fine, "stretch": stretch} | self.head.encode(logits)

    def target(self, columns: Mapping[str, Tensor]) -> Target:
        there = self._on(columns["codes"].device)
        steps = columns["codes"].float()
        steps[:, :FINE] += columns["fine"].float() / (2 * LEVELS)
        steps *= columns["stretch"].float()
        head = head_of_components(there["factor"], there["offset"], self.tensors)
        return HiddenTargets(steps, head, self.head.mass(columns))

    def _on(self, device: torch.device) -> dict[str, Tensor]:
        """The tensors on the device where they are read, moved there once."""
        if device not in self._moved:
            self._moved[device] = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        return self._moved[device]


def _columns(width: int, exact: ExactHead) -> dict[str, Column]:
    state = {
        "codes": Column(np.int8, width),
        "fine": Column(np.int8, min(FINE, width)),
        "stretch": Column(np.float16, 1),
    }
    return state | dict(exact.columns)
