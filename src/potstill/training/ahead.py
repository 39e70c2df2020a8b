"""The batches of the next steps, made while an accelerator works on this one, with what is stored of the teacher."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import nn

from potstill.signals import Batch, PreparedTeacher, Teacher
from potstill.training.batches import PlannedBatches, StepBatches

STEPS = 2
"""How many steps are made ahead: one that is about to be asked for, and one that is being made."""


class MadeAhead:
    """A source of batches, a few steps ahead of who asks it, in a thread of its own.

    What a step sees is what the source gives for it; labels are read and ids compared where the batch is made, and
    batches lie in pinned memory, so that the step itself waits for no file and no copy.
    """

    def __init__(self, source: PlannedBatches, teacher: Teacher, pool: ThreadPoolExecutor, total_steps: int) -> None:
        self._source = source
        self._teacher = teacher
        self._pool = pool
        self._total_steps = total_steps
        self._made: dict[int, Future[list[Batch]]] = {}

    @property
    def steps_per_epoch(self) -> int:
        return self._source.steps_per_epoch

    def at(self, step: int, *, student: nn.Module, rank: int, world_size: int) -> list[Batch]:
        for number in range(step, min(step + 1 + STEPS, max(step + 1, self._total_steps))):
            if number not in self._made:
                self._made[number] = self._pool.submit(self._make, number, rank, world_size)
        return self._made.pop(step).result()

    def _make(self, step: int, rank: int, world_size: int) -> list[Batch]:
        batches = self._source.planned(step, rank=rank, world_size=world_size)
        if isinstance(self._teacher, PreparedTeacher):
            for batch in batches:
                self._teacher.prepare(batch)
        return [batch.pinned() for batch in batches]


@contextmanager
def made_ahead(
    batches: StepBatches, teacher: Teacher, total_steps: int, *, device: torch.device
) -> Iterator[StepBatches]:
    """The source, a few steps ahead on an accelerator; as it is where it asks the student, and on a CPU, which would
    make batches with the cores that train."""
    if device.type == "cpu" or not isinstance(batches, PlannedBatches):
        yield batches
        return
    pool = ThreadPoolExecutor(max_workers=1)
    try:
        yield MadeAhead(batches, teacher, pool, total_steps)
    finally:
        pool.shutdown(cancel_futures=True)
