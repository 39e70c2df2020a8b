"""Embeddings in 8 bits as plain steps of a graph, which need no kernel of their own on a device."""

from typing import TypeGuard

from torch import Tensor, nn
from torch.nn import functional

from potstill.exporters.rounding import int8_levels


class RoundedEmbedding(nn.Module):
    """A table with a scale for each row. Rows are multiplied once they are read: it is never whole in float32."""

    levels: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        levels, scale = int8_levels(weight.detach())
        self.register_buffer("levels", levels)
        self.register_buffer("scale", scale)

    @property
    def weight(self) -> Tensor:
        """All of it, for models that read a table otherwise than by its rows."""
        return self.levels.to(self.scale.dtype) * self.scale

    def forward(self, ids: Tensor) -> Tensor:
        return functional.embedding(ids, self.levels).to(self.scale.dtype) * functional.embedding(ids, self.scale)


def is_table(module: nn.Module) -> TypeGuard[nn.Embedding]:
    """Whether a module is an embedding that reads rows and does nothing else."""
    return type(module) is nn.Embedding


def round_embeddings(model: nn.Module) -> None:
    """Put tables in 8 bits in the place of all embeddings of a model."""
    rounded: dict[nn.Module, RoundedEmbedding] = {}
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if is_table(child):
                if child not in rounded:
                    rounded[child] = RoundedEmbedding(child.weight)
                setattr(parent, name, rounded[child])
