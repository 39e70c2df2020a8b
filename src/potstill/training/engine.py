"""Device, precision and processes: the torch-native engines that the loop runs on."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from potstill.errors import TrainingError


@dataclass(frozen=True)
class Engine:
    """One process of a job, alone or under torchrun."""

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def wrap(self, module: nn.Module, *, all_reached: bool = True) -> nn.Module:
        """The module with its gradients averaged over all processes; says whether each parameter gets one."""
        module = module.to(self.device)
        if self.world_size == 1:
            return module
        return DistributedDataParallel(module, find_unused_parameters=not all_reached)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, the same in each."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process, so that all take the same turn."""
        return bool(self.sum(torch.tensor(float(flag), device=self.device)) > 0) if self.world_size > 1 else flag

    def barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier()

    def precision(self, asked: Literal["auto", "float32", "bfloat16"]) -> Literal["float32", "bfloat16"]:
        """What is computed in here: `auto` is bfloat16 where the accelerator has it."""
        if asked != "auto":
            return asked
        return "bfloat16" if self.device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"

    def autocast(self, precision: Literal["auto", "float32", "bfloat16"]) -> AbstractContextManager[object]:
        """bfloat16 arithmetic where it is asked for, or where the accelerator has it; weights stay float32."""
        if self.precision(precision) == "bfloat16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()


def is_main_process() -> bool:
    """Whether this process is alone, or the one of a torchrun job that writes and speaks."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def start_engine() -> Iterator[Engine]:
    """The engine of this process: one of several where torchrun started it, else alone.

    Raises:
        TrainingError: torchrun started more processes here than there are devices.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    cuda = torch.cuda.is_available()
    if cuda and local_rank >= (devices := torch.cuda.device_count()):
        raise TrainingError(
            f"torchrun: process {local_rank} of this machine has no device; there are {devices}. "
            f"Start torchrun with --nproc-per-node={devices}."
        )
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if world_size == 1:
        yield Engine(device)
        return
    if cuda:
        torch.cuda.set_device(device)
    # While the main process labels or evaluates, the others wait for it; torchrun ends them if it fails.
    dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(days=7))
    try:
        yield Engine(device, dist.get_rank(), world_size)
    finally:
        dist.destroy_process_group()
