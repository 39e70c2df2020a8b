"""What a teacher gives at temperature 1 of its likeliest tokens, as targets."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from potstill.targets import LEAST_LOG_MASS, Buckets, RowLogSumExp, SparseTarget


@dataclass(frozen=True)
class EvenTail:
    """A sparse target as a distribution: what it knows of k tokens, and the rest of the mass evenly over all others.

    At temperature 1 alone, where it is known.
    """

    sparse: SparseTarget
    vocabulary: int

    def __len__(self) -> int:
        return len(self.sparse)

    def with_products_in(self, dtype: torch.dtype) -> "EvenTail":
        return self

    def logits_at(
        self, rows: slice, temperature: float, log_sum_exp: RowLogSumExp
    ) -> Float[Tensor, "positions vocabulary"]:
        assert temperature == 1, "a teacher that gives its likeliest tokens is known at temperature 1"
        buckets = self.sparse.buckets_at(rows, 1.0)
        others = max(1, self.vocabulary - buckets.ids.shape[1])
        even = (buckets.log_tail - math.log(others))[:, None].expand(-1, self.vocabulary)
        return even.float().scatter(1, buckets.ids, buckets.log_head.float())


@dataclass(frozen=True)
class GivenBuckets:
    """What a teacher gives at temperature 1: the log-probabilities of its likeliest tokens, the likeliest first."""

    ids: Int[Tensor, "positions k"]
    log_probs: Float[Tensor, "positions k"]

    def __len__(self) -> int:
        return len(self.ids)

    def buckets_at(self, rows: slice, temperature: float) -> Buckets:
        assert temperature == 1, "a teacher that gives its likeliest tokens is known at temperature 1"
        log_head = self.log_probs[rows]
        log_tail = torch.log1p(-log_head.exp().sum(dim=1).clamp(max=1.0)).clamp(min=LEAST_LOG_MASS)
        return Buckets(self.ids[rows], log_head, log_tail)
