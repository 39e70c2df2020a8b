"""The engine of a process that is alone."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from potstill.training.precision import AskedPrecision, UsedPrecision, autocast_on, precision_on
from potstill.training.states import (
    TrainingState,
    load_state,
    load_weights,
    random_states_of,
    set_random_states,
    state_of,
)


@dataclass(frozen=True)
class OneProcess:
    """An engine without other processes: nothing is exchanged, and every tensor is whole where it lies."""

    device: torch.device

    @property
    def rank(self) -> int:
        return 0

    @property
    def world_size(self) -> int:
        return 1

    @property
    def is_main(self) -> bool:
        return True

    def wrap(self, module: nn.Module, *, all_reached: bool = True) -> nn.Module:
        return module.to(self.device)

    def accumulating(self, module: nn.Module, *, last: bool) -> AbstractContextManager[object]:
        return nullcontext()

    def clip(self, module: nn.Module, norm: float) -> float:
        return float(nn.utils.clip_grad_norm_(module.parameters(), norm))

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor

    def any(self, flag: bool) -> bool:
        return flag

    def barrier(self) -> None:
        pass

    def precision(self, asked: AskedPrecision) -> UsedPrecision:
        return precision_on(self.device, asked)

    def autocast(self, asked: AskedPrecision) -> AbstractContextManager[object]:
        return autocast_on(self.device, asked)

    def state(self, module: nn.Module, optimiser: torch.optim.Optimizer) -> TrainingState:
        return state_of(module, optimiser)

    def load_state(self, module: nn.Module, optimiser: torch.optim.Optimizer, state: TrainingState) -> None:
        load_state(module, optimiser, state)

    def load_weights(self, module: nn.Module, weights: Mapping[str, Tensor]) -> None:
        load_weights(module, weights)

    def whole(self, model: PreTrainedModel) -> AbstractContextManager[PreTrainedModel]:
        return nullcontext(model)

    def random_states(self) -> dict[str, Tensor]:
        return {f"{kind}.0": state.cpu() for kind, state in random_states_of(self.device).items()}

    def set_random_states(self, states: Mapping[str, Tensor]) -> None:
        set_random_states(states, rank=self.rank, device=self.device)
