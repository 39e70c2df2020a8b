"""The states encoding: hidden states of chosen layers at each token that counts, in 16 bits.

For losses on features. Attention maps are not stored: a row's grow with the square of its length.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from potstill.labels.positions import Column, Columns, TensorColumns
from potstill.models import Part
from potstill.settings import Settings
from potstill.signals import Features, Read, Signal


class StoredState(Settings):
    """Which hidden state a column holds."""

    layer: int
    normed: bool
    part: Part = Field(default=Part.ONLY, exclude_if=lambda part: part is Part.ONLY)

    @property
    def column(self) -> str:
        stack = "" if self.part is Part.ONLY else f"{self.part.value}_"
        return f"{stack}layer_{self.layer}{'_normed' if self.normed else ''}"

    @property
    def read(self) -> Read:
        return Read(Signal.HIDDEN_STATES, self.layer, normed=self.normed, part=self.part)


class States(Settings):
    """Hidden states as float16: 11 bits of each number, whatever its size up to 65,504. A larger one is refused."""

    kind: Literal["states"] = "states"
    width: int
    states: tuple[StoredState, ...]

    @classmethod
    def of(cls, reads: Iterable[Read], width: int) -> "States":
        """The states that are read of one stack, of a model so wide."""
        ordered = sorted(reads)
        assert all((read.signal, read.part) == (Signal.HIDDEN_STATES, ordered[0].part) for read in ordered)
        return cls(width=width, states=tuple(StoredState(layer=r.layer, normed=r.normed, part=r.part) for r in ordered))

    @property
    def part(self) -> Part:
        """The stack that all of them are of."""
        return self.states[0].part

    @property
    def columns(self) -> Mapping[str, Column]:
        return {state.column: Column(np.float16, self.width) for state in self.states}

    def encode(self, features: Features) -> TensorColumns:
        # An overflow is refused by who writes it, with its row and position.
        return {s.column: features[s.read].float().half() for s in self.states}

    def decode(self, columns: Columns | TensorColumns, device: torch.device) -> Features:
        return {s.read: torch.as_tensor(columns[s.column]).to(device, non_blocking=True).float() for s in self.states}
