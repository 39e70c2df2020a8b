"""What the loop asks of the machinery it runs on, and which machinery a process gets."""

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import PreTrainedModel

from potstill.errors import TrainingError
from potstill.training.data_parallel import DataParallel
from potstill.training.one_process import OneProcess
from potstill.training.precision import AskedPrecision, UsedPrecision
from potstill.training.states import TrainingState


@runtime_checkable
class Engine(Protocol):
    """One process of a job, alone or under torchrun, and how it wraps, exchanges and gathers.

    The loop, the checkpoints and the saving of models know no more of it, so another way to share the work, such as
    sharded parameters, is one file with these methods and a line in `start_engine`. It must promise:

    - Equal calls. Every process makes the same calls in the same order, with as many micro-batches in each step and as
      many batches in each validation. A method may wait for the other processes.
    - Equal results. `sum`, `any`, `clip` and `random_states` give the same in each process.
    - Mean gradients. After the last backward pass of a step the gradients are the mean over the processes; the loop
      multiplies by `world_size` what it wants as a sum.
    - Whole tensors in files. What is saved has the names and shapes of the module that was given to `wrap`, so a
      checkpoint and a model that one engine has written are read by each other one.
    """

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        ...

    @property
    def rank(self) -> int:
        """Which of the processes this is, from 0."""
        ...

    @property
    def world_size(self) -> int: ...

    @property
    def is_main(self) -> bool:
        """Whether this is the one process that writes and speaks."""
        ...

    def wrap(self, module: nn.Module, *, all_reached: bool = True) -> nn.Module:
        """The module on this engine's device, with its gradients averaged over all processes.

        `all_reached` says whether each parameter gets a gradient in each step. What is wrapped is trained through the
        result alone, and may be changed in place: the module that was given stays usable for forward passes.
        """
        ...

    def accumulating(self, module: nn.Module, *, last: bool) -> AbstractContextManager[object]:
        """Around the passes of one micro-batch of a step: only the last of them need exchange gradients."""
        ...

    def clip(self, module: nn.Module, norm: float) -> float:
        """Scale the gradients of a wrapped module down to this norm over all of its parameters.

        Returns the norm before.
        """
        ...

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, the same in each; may be made in place."""
        ...

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process, so that all take the same turn."""
        ...

    def barrier(self) -> None:
        """Return when all processes have called it."""
        ...

    def precision(self, asked: AskedPrecision) -> UsedPrecision:
        """What is computed in here: `auto` is bfloat16 where the accelerator has it."""
        ...

    def autocast(self, asked: AskedPrecision) -> AbstractContextManager[object]:
        """Arithmetic in that precision. Weights stay float32."""
        ...

    def state(self, module: nn.Module, optimiser: torch.optim.Optimizer) -> TrainingState:
        """The state of a wrapped module and its optimiser: whole in the main process, possibly empty in the others."""
        ...

    def load_state(self, module: nn.Module, optimiser: torch.optim.Optimizer, state: TrainingState) -> None:
        """Restore a wrapped module and its optimiser. Each process is given the whole state."""
        ...

    def load_weights(self, module: nn.Module, weights: Mapping[str, Tensor]) -> None:
        """Restore a wrapped module alone. Each process is given all weights."""
        ...

    def whole(self, model: PreTrainedModel) -> AbstractContextManager[PreTrainedModel]:
        """The model within what was wrapped, as one that the main process can save."""
        ...

    def random_states(self) -> dict[str, Tensor]:
        """The states of the generators of all processes, in each, named `kind.rank`, such as `cpu.0`."""
        ...

    def set_random_states(self, states: Mapping[str, Tensor]) -> None:
        """Restore this process's generators, as far as the states name them."""
        ...


def is_main_process() -> bool:
    """Whether this process is alone, or the one of a torchrun job that writes and speaks."""
    return os.environ.get("RANK", "0") == "0"


def process_count() -> int:
    """How many processes work on the job: those that torchrun started, or this one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def start_engine() -> Iterator[Engine]:
    """The engine of this process: one of several where torchrun started it, else alone.

    Raises:
        TrainingError: torchrun started more processes here than there are devices.
    """
    world_size = process_count()
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    cuda = torch.cuda.is_available()
    if cuda and local_rank >= (devices := torch.cuda.device_count()):
        raise TrainingError(
            f"torchrun: process {local_rank} of this machine has no device; there are {devices}. "
            f"Start torchrun with --nproc-per-node={devices}."
        )
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if world_size == 1:
        yield OneProcess(device)
        return
    if cuda:
        torch.cuda.set_device(device)
    # While the main process labels or evaluates, the others wait for it; torchrun ends them if it fails.
    dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(days=7))
    try:
        yield DataParallel(device, dist.get_rank(), world_size)
    finally:
        dist.destroy_process_group()
