"""Which rows make a batch: fixed by seed and epoch alone, so that any step can be found again.

The order does not depend on workers, on the number of processes, or on what was done before a kill.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

BUCKET_BATCHES = 32
"""Batches that are formed together from rows of similar length. Larger wastes less padding and shuffles less."""


@dataclass
class StepIterator:
    """Endless optimiser steps over the rows, each a list of row indices; every row once an epoch.

    `step` is all the state there is: set it to go on from there.
    """

    lengths: Sequence[int]
    batch_size: int
    seed: int
    step: int = 0

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        while True:
            epoch, within = divmod(self.step, self.steps_per_epoch)
            for rows in self.epoch(epoch)[within:]:
                self.step += 1
                yield rows

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
