"""What a step costs: its wall time, how much it gets through, and memory."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from potstill.measure.speed import peak_memory_bytes
from potstill.signals import Batch

COSTS = ("seconds", "waited_seconds", "rows", "tokens", "rows_per_s", "tokens_per_s", "memory_bytes")
"""Keys in metrics.jsonl that differ from run to run, or count what the rates are of and are not in lines of earlier
versions. All others are a function of recipe and data."""

_RESIDENT = "/proc/self/statm"
_HAS_RESIDENT = Path(_RESIDENT).exists()
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass
class StepClock:
    """Begins with a step, and says at its end what it cost."""

    device: torch.device
    started: float = field(default_factory=time.perf_counter)
    waited_seconds: float = 0.0

    def waited(self) -> None:
        """Hear that the batches of the step are there."""
        self.waited_seconds = time.perf_counter() - self.started

    def costs(self, positions: float, rows: float, *, by_rows: bool) -> Mapping[str, float]:
        """Of a step with so many positions and rows that count, in all processes together.

        `seconds` ends with the gradients, for on an accelerator the optimiser's own work is still queued then; the next
        step waits for it. `waited_seconds` of them went by until the batches were there. The rate is of rows, or of
        tokens that are learnt where each position is one.
        """
        seconds = time.perf_counter() - self.started
        name, amount = ("rows", rows) if by_rows else ("tokens", positions)
        return {
            "seconds": round(seconds, 6),
            "waited_seconds": round(self.waited_seconds, 6),
            name: int(amount),
            f"{name}_per_s": round(amount / seconds, 1),
            "memory_bytes": memory_bytes(self.device),
        }


def counted(batches: Sequence[Batch]) -> Tensor:
    """How many positions count in these batches, and how many rows have one."""
    positions = torch.stack([batch.mask.sum() for batch in batches]).sum()
    rows = torch.stack([(batch.mask if batch.mask.dim() == 1 else batch.mask.any(dim=1)).sum() for batch in batches])
    return torch.stack([positions, rows.sum()])


def counts_rows(batches: Sequence[Batch]) -> bool:
    """Whether positions are about whole rows, as classes are, and not about tokens."""
    return all(batch.mask.dim() == 1 or batch.whole_rows for batch in batches)


def memory_bytes(device: torch.device) -> int:
    """Of an accelerator the most that tensors have held, else the memory that this process holds now.

    Where the system does not tell the latter, the most that it has held.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if not _HAS_RESIDENT:
        return peak_memory_bytes()
    # Without Python's layers of buffers, which take longer than the reading.
    descriptor = os.open(_RESIDENT, os.O_RDONLY)
    try:
        return int(os.read(descriptor, 256).split()[1]) * _PAGE_BYTES
    finally:
        os.close(descriptor)


def forget_peak(device: torch.device) -> None:
    """Let the peak of an accelerator begin here."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
