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

from potstill.compiling import compiled_pass, with_known_columns
from potstill.labels.largest import largest
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
        values, ids = largest(logits, self.k)
        logits.scatter_(1, ids, -torch.inf)
        # Elsewhere it would take longer to compile than to label.
        tails_of = _compiled_tails().tails if logits.is_cuda else log_tails
        return {
            "head_ids": pack_ids(ids, self.vocabulary),
            # Relative to the likeliest, so that half precision has its digits where the mass is.
            "head_logits": (values - values[:, :1]).half(),
            # A tail of nothing, where k is the vocabulary, is a finite number too.
            "log_tails": tails_of(logits, values, self.temperatures).clamp(min=LEAST_LOG_MASS, max=0).half(),
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


def log_tails(
    logits: Float[Tensor, "positions vocabulary"],
    head: Float[Tensor, "positions k"],
    temperatures: tuple[float, ...],
) -> Float[Tensor, "positions temperatures"]:
    """The log of the mass of the tail at each temperature, beside a head with these logits, the largest first.

    `logits` are -inf where the head is, and may be overwritten. Compiled, that is a few kernels in
    the place of fifty.
    """
    most = head[:, :1]
    relative = head - most
    sums = log_sums_of_tail(logits, most, temperatures)
    tails = [
        tail - torch.logaddexp(tail, torch.logsumexp(relative / temperature, dim=1))
        for temperature, tail in zip(temperatures, sums, strict=True)
    ]
    return torch.stack(tails, dim=1)


def log_sums_of_tail(
    logits: Float[Tensor, "positions vocabulary"],
    most: Float[Tensor, "positions 1"],
    temperatures: tuple[float, ...],
) -> list[Tensor]:
    """log(sum(exp((x - most) / T))) of each position for each temperature; the logits may be overwritten.

    Compiled, all temperatures are one pass over the logits, where each takes several.
    """
    if torch.compiler.is_compiling():
        with_known_columns(logits)
        powers: list[tuple[float, Tensor]] = []
        for temperature in reversed(temperatures):
            # At half a temperature an exponential is the square, which costs less.
            roots = [power for known, power in powers if known == 2 * temperature]
            power = roots[0].square() if roots else torch.exp((logits - most) * (1 / temperature))
            powers.append((temperature, power))
        return [power.sum(dim=1).log() for _, power in reversed(powers)]
    logits.sub_(most)
    softened = torch.empty_like(logits)
    return [torch.mul(logits, 1 / temperature, out=softened).exp_().sum(dim=1).log() for temperature in temperatures]


class CompiledTails:
    """`log_tails`, compiled where the machine can compile."""

    def __init__(self) -> None:
        self._possible = True
        self.tails = compiled_pass(log_tails, wanted=lambda: self._possible, give_up=self._use_plain)

    def _use_plain(self, reason: str) -> None:
        self._possible = False
        warnings.warn(f"torch.compile failed, so labels are made uncompiled and slower: {reason}", stacklevel=4)


@cache
def _compiled_tails() -> CompiledTails:
    return CompiledTails()
