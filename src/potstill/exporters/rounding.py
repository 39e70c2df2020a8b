"""The numbers that an artefact will hold, as a student can be trained with them.

They are rounded on the way forward, and have the gradient of what was rounded as if it were whole (straight through;
Bengio et al. 2013, arXiv:1308.3432).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

Round = Callable[[Tensor], Tensor]
BLOCK = 32
"""Weights of a row that share a scale in the types of GGUF that are rounded here."""
INT8_LEVELS = 127


class _StraightThrough(torch.autograd.Function):
    # Not x + (rounded - x).detach(), which is not the rounded number to the last bit.
    @staticmethod
    def forward(ctx: Any, weight: Tensor, rounded: Round) -> Tensor:
        return rounded(weight.detach().float()).to(weight.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class Rounded(nn.Module):
    """A parametrisation of a weight: what is computed with is rounded, what is trained is whole."""

    def __init__(self, rounded: Round) -> None:
        super().__init__()
        self._rounded = rounded

    def forward(self, weight: Tensor) -> Tensor:
        found: Tensor = _StraightThrough.apply(weight, self._rounded)  # type: ignore[no-untyped-call]
        return found


RoundOf = Callable[[str, nn.Module], Round | None]
"""How the weight of a module is rounded, by the module's name; None where it stays whole."""


@contextmanager
def with_rounded_weights(model: nn.Module, round_of: RoundOf) -> Iterator[None]:
    """Within, the weights of linear layers and embeddings are rounded wherever they are read.

    Tied weights stay one parameter. After it the model has the whole weights, as they were trained.
    """
    chosen = {
        module: round_of(name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Embedding)
    }
    rounded = {module: how for module, how in chosen.items() if how is not None}
    for module, how in rounded.items():
        # The rounded number is no number that could be assigned, and need not be.
        parametrize.register_parametrization(module, "weight", Rounded(how), unsafe=True)
    try:
        yield
    finally:
        for module in rounded:
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)


def int8_by_channel(weight: Tensor) -> Tensor:
    """Symmetric, with a scale for each row: an output channel of a linear layer."""
    levels, scale = int8_levels(weight)
    return levels * scale


def int8_levels(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The levels of `int8_by_channel`, and the scale of each row."""
    scale = weight.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / INT8_LEVELS
    return (weight / scale).round().clamp(-INT8_LEVELS, INT8_LEVELS).to(torch.int8), scale


def int8_of_all(weight: Tensor) -> Tensor:
    """Symmetric, with one scale: an embedding matrix in ONNX Runtime."""
    scale = weight.abs().max().clamp(min=1e-12) / INT8_LEVELS
    return (weight / scale).round().clamp(-INT8_LEVELS, INT8_LEVELS) * scale


def int8_between_extremes(weight: Tensor) -> Tensor:
    """256 levels from the least to the greatest of each row, of which one is zero: NNCF's INT8_ASYM."""
    low = weight.amin(dim=-1, keepdim=True).clamp(max=0.0)
    step = ((weight.amax(dim=-1, keepdim=True).clamp(min=0.0) - low) / 255).clamp(min=1e-12)
    zero = (-low / step).round()
    return ((weight / step + zero).round().clamp(0, 255) - zero) * step


def q8_0(weight: Tensor) -> Tensor:
    """Blocks of 32 with a scale in half precision, halves away from zero, as ggml rounds them."""
    blocks = _blocks(weight)
    largest = torch.maximum(blocks.amax(-1, keepdim=True), -blocks.amin(-1, keepdim=True)) / 127.0
    inverse = torch.where(largest == 0, 0.0, 1.0 / largest)
    scaled = blocks * inverse
    # torch.round takes halves to even; the rest behind the whole number and its double are exact.
    level = scaled.trunc()
    level = level + ((scaled - level) * 2.0).trunc()
    return (level.nan_to_num(0.0, 0.0, 0.0) * _in_half(largest)).reshape(weight.shape)


def q4_0(weight: Tensor) -> Tensor:
    """Blocks of 32 in 16 levels, of which the value of the largest magnitude is the lowest, -8, as in ggml."""
    blocks = _blocks(weight)
    # The first of the largest wins.
    extreme = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))
    step = extreme / -8.0
    inverse = torch.where(step == 0, 0.0, 1.0 / step)
    # Levels come of the exact step, values of the one in half precision.
    level = (blocks * inverse + 8.5).trunc().clamp(0, 15) - 8.0
    return (level.nan_to_num(0.0) * _in_half(step)).reshape(weight.shape)


def _blocks(weight: Tensor) -> Tensor:
    return weight.reshape(*weight.shape[:-1], -1, BLOCK)


def _in_half(values: Tensor) -> Tensor:
    return values.to(torch.float16).to(torch.float32)
