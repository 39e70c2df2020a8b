"""Which rows make a batch: fixed by seed and epoch alone, so that any step can be found again.

The order does not depend on workers, on the number of processes, or on what was done before a kill.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

BUCKET_BATCHES = 32
"""Batches that are formed together from rows of similar length. Larger wastes less padding and shuffles less."""


@dataclass
class RowOrder:
    """The rows of every optimiser step, as lists of indices; every row once an epoch."""

    lengths: Sequence[int]
    batch_size: int
    seed: int
    _latest: tuple[int, list[list[int]]] = field(default=(-1, []), init=False, repr=False, compare=False)
    """An epoch with its steps, since the next step is most often of the same."""

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def at(self, step: int) -> list[int]:
        """The rows of a step, counted from 0 over all epochs."""
        epoch, within = divmod(step, self.steps_per_epoch)
        if self._latest[0] != epoch:
            self._latest = epoch, self.epoch(epoch)
        return self._latest[1][within]

    def epoch(self, epoch: int) -> list[list[int]]:
        """The steps of an epoch: shuffled rows, sorted by length within buckets, then shuffled steps."""
        generator = torch.Generator().manual_seed(hash_seed(self.seed, epoch))
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        steps: list[list[int]] = []
        bucket = self.batch_size * BUCKET_BATCHES
        for start in range(0, len(order), bucket):
            rows = sorted(order[start : start + bucket], key=lambda row: self.lengths[row])
            steps.extend(rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size))
        return [steps[i] for i in torch.randperm(len(steps), generator=generator).tolist()]


def hash_seed(seed: int, epoch: int) -> int:
    """One seed for each pair; a sum would repeat the orders of neighbouring seeds."""
    return (seed * 1_000_003 + epoch) % 2**63


def batches_by_length(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """All rows once, in batches of similar length: for passes in which the order means nothing.

    Sorted stably, so the batches are a function of the rows alone.
    """
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def micro_batches(rows: Sequence[int], size: int, *, rank: int = 0, world_size: int = 1) -> list[list[int]]:
    """This rank's part of a step's rows, in pieces of at most `size`: every rank gets as many pieces.

    A piece can be empty where a step has fewer rows than there are ranks.
    """
    pieces = max(1, -(-len(rows) // (size * world_size)))
    mine = list(rows[rank::world_size])
    return [mine[i * size : (i + 1) * size] for i in range(pieces)]
