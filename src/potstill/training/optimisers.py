"""AdamW, with its moments in float32, in bfloat16 or in 8 bits."""

import importlib
import logging
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from potstill.errors import RecipeError
from potstill.recipe import OptimiserSettings

_PIECE = 2**23
"""Numbers that are rounded at a time: their float32 copies take 32 MiB each, however large a matrix is."""


def require_optimiser(settings: OptimiserSettings, where: str) -> None:
    """Raises RecipeError: the package that it takes is not installed."""
    if settings.optimizer.states == "8bit" and find_spec("bitsandbytes") is None:
        raise RecipeError(
            f"{where}.optimizer.states: 8bit needs the package bitsandbytes. Run: pip install 'potstill[large]'"
        )


def make_optimiser(module: nn.Module, settings: OptimiserSettings, seed: int) -> torch.optim.Optimizer:
    """AdamW over all that is trained; `seed` decides how moments in bfloat16 are rounded."""
    asked = settings.optimizer
    how: dict[str, Any] = {"lr": settings.learning_rate, "betas": asked.betas, "eps": asked.eps}
    groups = _groups(module, settings.weight_decay)
    if asked.states == "bfloat16":
        return AdamWInBfloat16(groups, seed=seed, **how)
    if asked.states == "8bit":
        return _in_8_bits(groups, module, **how)
    return torch.optim.AdamW(groups, fused=True, **how)


def _groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    # Vectors are biases and layer norms.
    return [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]


class AdamWInBfloat16(torch.optim.Optimizer):
    """AdamW (arXiv:1711.05101) whose moments lie in bfloat16 between steps, and are rounded at random in proportion.

    To the nearest number, the second moment would stand still: without a gradient a step lowers it by 0.1 %, and the
    numbers of bfloat16 lie 0.4 to 0.8 % apart. Rounded up as often as it lies far above the number below, it is right
    on average (Gupta et al. 2015, arXiv:1502.02551; Zamirai et al. 2020, arXiv:2010.06192). Steps are computed in
    float32.

    What is drawn is a function of seed, step and parameter, so processes that hold the same weights round alike, and a
    training that was broken off goes on as it would have.
    """

    def __init__(
        self, groups: list[dict[str, Any]], *, lr: float, betas: tuple[float, float], eps: float, seed: int
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps})
        self._seed = seed

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        number = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                number += 1
                if parameter.grad is not None:
                    self._step(parameter, group, number)

    def _step(self, parameter: Tensor, group: dict[str, Any], number: int) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.zeros_like(parameter, dtype=torch.bfloat16)
        state["step"] += 1
        generator = torch.Generator(parameter.device)
        drawn = np.random.SeedSequence((self._seed, state["step"], number)).generate_state(1, np.uint64)
        generator.manual_seed(int(drawn[0]))
        assert parameter.grad is not None
        whole = (parameter, parameter.grad, state["exp_avg"], state["exp_avg_sq"])
        for values, gradient, first, second in _pieces(whole):
            _update(values, gradient, first, second, group, state["step"], generator)


def _pieces(tensors: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, ...]]:
    """Views of tensors of one shape, of so many rows that none is large."""
    first = tensors[0]
    if first.numel() <= _PIECE or first.dim() == 0:
        yield tensors
        return
    rows = max(1, _PIECE // first[0].numel())
    for start in range(0, len(first), rows):
        yield tuple(tensor[start : start + rows] for tensor in tensors)


def _update(
    parameter: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    group: dict[str, Any],
    step: int,
    generator: torch.Generator,
) -> None:
    """A step of a piece of a parameter, in place, with both of its moments."""
    mean_decay, square_decay = group["betas"]
    gradient = gradient.float()
    mean = first.float().lerp_(gradient, 1 - mean_decay)
    square = second.float().mul_(square_decay).addcmul_(gradient, gradient, value=1 - square_decay)
    # One draw of 31 bits rounds both: they share the highest of the one and the lowest of the other.
    drawn = torch.empty_like(mean, dtype=torch.int32).random_(generator=generator)
    first.copy_(_rounded(mean, drawn))
    second.copy_(_rounded(square, drawn >> 15))
    root = square.sqrt_().mul_((1 - square_decay**step) ** -0.5).add_(group["eps"])
    parameter.mul_(1 - group["lr"] * group["weight_decay"])
    parameter.addcdiv_(mean, root, value=-group["lr"] / (1 - mean_decay**step))


def _rounded(values: Tensor, drawn: Tensor) -> Tensor:
    """Numbers that bfloat16 holds: the next to zero, or beyond it as often as the 16 bits that are cut are above so
    many random ones. bfloat16 is the upper half of float32, so what is cut is carried into it."""
    return (drawn & 0xFFFF).add_(values.view(torch.int32)).bitwise_and_(~0xFFFF).view(torch.float32)


def _in_8_bits(groups: list[dict[str, Any]], module: nn.Module, **how: Any) -> torch.optim.Optimizer:
    """AdamW of bitsandbytes: eight bits a number and a scale for each block of 256, and small parameters in float32.

    So are embeddings, whose gradients are too uneven for it (arXiv:2110.02861, section 2.3).
    """
    # It says on machines without an accelerator that it found none.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    optim: Any = importlib.import_module("bitsandbytes.optim")
    embeddings = {id(each.weight) for each in module.modules() if isinstance(each, nn.Embedding)}

    class WithWideEmbeddings(optim.AdamW8bit):  # type: ignore[misc]
        def get_config(self, group_number: int, number: int, group: dict[str, Any]) -> dict[str, Any]:
            config: dict[str, Any] = super().get_config(group_number, number, group)
            wide = id(group["params"][number]) in embeddings
            return config | ({"optim_bits": 32} if wide else {})

    return WithWideEmbeddings(groups, **how)
