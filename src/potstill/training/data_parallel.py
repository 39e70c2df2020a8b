"""The engine of several processes with a whole copy of the module each: gradients are averaged (torch's DDP)."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
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
class DataParallel:
    """An engine of a process group that is there already."""

    device: torch.device
    rank: int
    world_size: int

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def wrap(self, module: nn.Module, *, all_reached: bool = True) -> nn.Module:
        return DistributedDataParallel(module.to(self.device), find_unused_parameters=not all_reached)

    def accumulating(self, module: nn.Module, *, last: bool) -> AbstractContextManager[object]:
        assert isinstance(module, DistributedDataParallel), "what this engine wrapped"
        return nullcontext() if last else module.no_sync()

    def clip(self, module: nn.Module, norm: float) -> float:
        return float(nn.utils.clip_grad_norm_(module.parameters(), norm))

    def sum(self, tensor: Tensor) -> Tensor:
        tensor = tensor.to(self.device)
        dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        return bool(self.sum(torch.tensor(float(flag), device=self.device)) > 0)

    def barrier(self) -> None:
        dist.barrier()

    def precision(self, asked: AskedPrecision) -> UsedPrecision:
        return precision_on(self.device, asked)

    def autocast(self, asked: AskedPrecision) -> AbstractContextManager[object]:
        return autocast_on(self.device, asked)

    def state(self, module: nn.Module, optimiser: torch.optim.Optimizer) -> TrainingState:
        # The copies are equal, so that the other processes need not make one more.
        return state_of(module, optimiser) if self.is_main else TrainingState()

    def load_state(self, module: nn.Module, optimiser: torch.optim.Optimizer, state: TrainingState) -> None:
        load_state(module, optimiser, state)

    def load_weights(self, module: nn.Module, weights: Mapping[str, Tensor]) -> None:
        load_weights(module, weights)

    def whole(self, model: PreTrainedModel) -> AbstractContextManager[PreTrainedModel]:
        return nullcontext(model)

    def random_states(self) -> dict[str, Tensor]:
        states: dict[str, Tensor] = {}
        for kind, state in random_states_of(self.device).items():
            own = state.to(self.device)
            gathered = [torch.empty_like(own) for _ in range(self.world_size)]
            dist.all_gather(gathered, own)
            states |= {f"{kind}.{rank}": each.cpu() for rank, each in enumerate(gathered)}
        return states

    def set_random_states(self, states: Mapping[str, Tensor]) -> None:
        set_random_states(states, rank=self.rank, device=self.device)
