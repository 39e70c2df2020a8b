"""Where the batches of a training come from: a source that is asked for those of each step."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from potstill.data.batches import RowOrder, micro_batches
from potstill.data.encoded import BatchSource
from potstill.recipe import OptimiserSettings
from potstill.signals import Batch


@runtime_checkable
class StepBatches(Protocol):
    """A source of the batches of a training, such as rows in shuffled order, or texts that the student writes.

    What a step sees is a function of the source's seed, the step and, where the source asks it, the student: a training
    that goes on from a checkpoint sees what it would have seen. So a source counts nothing itself, and draws from
    generators of its own, never from the global one, which is that of dropout.
    """

    @property
    def steps_per_epoch(self) -> int:
        """Steps between evaluations where the settings do not say."""
        ...

    def at(self, step: int, *, student: nn.Module, rank: int, world_size: int) -> list[Batch]:
        """The micro-batches of a process in a step, at least one.

        All processes get as many, since they exchange gradients; one without rows gets a batch whose only row is
        masked. The student stands where it was after the step before; its weights must stay as they are, and its mode
        (train or eval) is set again by the loop.
        """
        ...


@runtime_checkable
class PlannedBatches(StepBatches, Protocol):
    """A source that does not ask the student, so that its batches can be made before their step."""

    def planned(self, step: int, *, rank: int, world_size: int) -> list[Batch]:
        """What `at` gives for this step. Asked in a thread of its own, one step at a time."""
        ...


@dataclass(frozen=True)
class ShuffledRows:
    """The rows of a file, every one once an epoch, in batches of similar length."""

    rows: BatchSource
    settings: OptimiserSettings
    seed: int

    @cached_property
    def _order(self) -> RowOrder:
        return RowOrder(self.rows.lengths, self.settings.batch_size, self.seed)

    @property
    def steps_per_epoch(self) -> int:
        return self._order.steps_per_epoch

    def at(self, step: int, *, student: nn.Module, rank: int, world_size: int) -> list[Batch]:
        return self.planned(step, rank=rank, world_size=world_size)

    def planned(self, step: int, *, rank: int, world_size: int) -> list[Batch]:
        size = self.settings.micro_batch_size or self.settings.batch_size
        pieces = micro_batches(self._order.at(step), size, rank=rank, world_size=world_size)
        return [collate_or_masked(self.rows, piece) for piece in pieces]


def collate_or_masked(rows: BatchSource, indices: Sequence[int]) -> Batch:
    """A batch of these rows; of none, one whose only row is masked, for a process that must go along."""
    if indices:
        return rows.collate(indices)
    batch = rows.collate([0])
    return replace(batch, mask=torch.zeros_like(batch.mask))
