"""What of a teacher goes into its student: the directions of its stream, and of each layer its heads and units."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from potstill.models import Part
from potstill.students.importance import Importance


@dataclass(frozen=True)
class WidthProjection:
    """What is kept of a stream, and within the layers that are."""

    basis: Float[Tensor, "width student_width"]
    """Orthonormal columns, of which the narrower stream is made."""
    importance: Importance | None
    """None where the first heads and units are kept."""

    @property
    def gain(self) -> float:
        return math.sqrt(self.basis.shape[0] / self.basis.shape[1])

    def heads(
        self, layers: Sequence[int], count: int, *, grouped: int = 1, part: Part = Part.ONLY
    ) -> Int[Tensor, "{count}"]:
        """The groups of heads that are kept, the same in all these layers; each of so many that share their keys."""
        if self.importance is None:
            return torch.arange(count)
        together = self.importance.heads[part][list(layers)].sum(dim=0)
        return largest(together.reshape(-1, grouped).sum(dim=1), count)

    def units(self, layer: int, count: int, *, part: Part = Part.ONLY) -> Int[Tensor, "{count}"]:
        """The feed-forward units of a layer that are kept."""
        return torch.arange(count) if self.importance is None else largest(self.importance.units[part][layer], count)

    def experts(self, layer: int, count: int) -> Int[Tensor, "{count}"]:
        """The experts of a layer that are kept: the first, or those that are chosen most often."""
        if self.importance is None:
            return torch.arange(count)
        return largest(self.importance.experts[layer].tokens, count)

    def units_of_expert(self, layer: int, expert: int, count: int) -> Int[Tensor, "{count}"]:
        if self.importance is None:
            return torch.arange(count)
        return largest(self.importance.experts[layer].units[expert], count)

    def read(self, tensor: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows student_width"]:
        return tensor @ self.basis

    def write(self, tensor: Tensor) -> Tensor:
        # Of a convolution, which has more axes, each place in its window by itself.
        rows = tensor.flatten(1) if tensor.dim() > 2 else tensor
        written: Tensor = self.basis.T @ rows
        return written.reshape(-1, *tensor.shape[1:])

    def scale(self, tensor: Float[Tensor, "width"]) -> Float[Tensor, "student_width"]:
        """The diagonal of P^T diag(tensor) P."""
        return tensor @ self.basis.square()


def largest(values: Float[Tensor, "all"], count: int) -> Int[Tensor, "{count}"]:
    """Where the largest values stand, in their own order."""
    return values.argsort(descending=True, stable=True)[:count].sort().values


def rows_of(blocks: Int[Tensor, "blocks"], size: int) -> Int[Tensor, "rows"]:
    """The rows of these blocks of `size` rows each."""
    return (blocks[:, None] * size + torch.arange(size)).reshape(-1)
