"""The k likeliest tokens, exactly, and the mass of all others at each temperature: what most encodings begin with.

Above a temperature of 1 a large vocabulary is nearly all tail, and its mass does not follow from that at 1: the tail
is no single token. So the mass is stored for a grid of temperatures.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from potstill.compiling import compiled_pass
from potstill.labels.packed_ids import pack_ids, packed_width, unpack_ids
from potstill.labels.positions import Column, TensorColumns
from potstill.targets import LEAST_LOG_MASS, Buckets, Mass


@dataclass(frozen=True)
class ExactHead:
    k: int
    vocabulary: int
    temperatures: tuple[float, ...]
    """Ascending."""

    @property
    def columns(self) -> Mapping[str, Column]:
        return {
            "head_ids": Column(np.uint8, packed_width(self.k, self.vocabulary), (self.k, self.vocabulary)),
            "head_logits": Column(np.float16, self.k),
            "log_tails": Column(np.float16, len(self.temperatures)),
        }

    def encode(self, logits: Float[Tensor, "positions vocabulary"]) -> TensorColumns:
        """The columns; the logits are overwritten."""
        top = logits.topk(self.k, dim=1)
        # Relative to the likeliest, so that half precision has its digits where the mass is.
        relative = top.values - top.values[:, :1]
        logits.scatter_(1, top.indices, -torch.inf)
        # Elsewhere it would take longer to compile than to label.
        sums_of = _compiled_tails().sums if logits.is_cuda else log_sums_of_tail
        tails = [
            tail - torch.logaddexp(tail, torch.logsumexp(relative / temperature, dim=1))
            for temperature, tail in zip(
                self.temperatures, sums_of(logits, top.values[:, :1], self.temperatures), strict=True
            )
        ]
        return {
            "head_ids": pack_ids(top.indices, self.vocabulary),
            "head_logits": relative.half(),
            # A tail of nothing, where k is the vocabulary, is a finite number too.
            "log_tails": torch.stack(tails, dim=1).clamp(min=LEAST_LOG_MASS, max=0).half(),
        }

    def encode_given(self, buckets: Buckets) -> TensorColumns:
        """The columns of what is known of k tokens or more, the likeliest first, at temperature 1 alone."""
        assert self.temperatures == (1.0,), "what is known at temperature 1 serves no other"
        kept, rest = buckets.log_head[:, : self.k], buckets.log_head[:, self.k :]
        tail = torch.logsumexp(torch.cat([rest, buckets.log_tail[:, None]], dim=1), dim=1)
        return {
            "head_ids": pack_ids(buckets.ids[:, : self.k], self.vocabulary),
            "head_logits": (kept - kept[:, :1]).half(),
            "log_tails": tail[:, None].clamp(min=LEAST_LOG_MASS, max=0).half(),
        }

    def mass(self, columns: Mapping[str, Tensor]) -> Mass:
        return Mass(
            unpack_ids(columns["head_ids"], self.k, self.vocabulary),
            columns["head_logits"].float(),
            columns["log_tails"].float(),
            self.temperatures,
            self.vocabulary,
        )


def log_sums_of_tail(
    logits: Float[Tensor, "positions vocabulary"],
    most: Float[Tensor, "positions 1"],
    temperatures: tuple[float, ...],
) -> list[Tensor]:
    """log(sum(exp((x - most) / T))) of each position for each temperature; the logits may be overwritten.

    Compiled, all temperatures are one pass over the logits, where each takes several.
    """
    if torch.compiler.is_compiling():
        return [torch.exp((logits - most) * (1 / temperature)).sum(dim=1).log() for temperature in temperatures]
    logits.sub_(most)
    softened = torch.empty_like(logits)
    return [torch.mul(logits, 1 / temperature, out=softened).exp_().sum(dim=1).log() for temperature in temperatures]


class CompiledTails:
    """`log_sums_of_tail`, compiled where the machine can compile."""

    def __init__(self) -> None:
        self._possible = True
        self.sums = compiled_pass(log_sums_of_tail, wanted=lambda: self._possible, give_up=self._use_plain)

    def _use_plain(self, reason: str) -> None:
        self._possible = False
        warnings.warn(f"torch.compile failed, so labels are made uncompiled and slower: {reason}", stacklevel=4)


@cache
def _compiled_tails() -> CompiledTails:
    return CompiledTails()
