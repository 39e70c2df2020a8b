"""The k likeliest tokens, exactly, and the mass of all others at each temperature: what most encodings begin with.

Above a temperature of 1 a large vocabulary is nearly all tail, and its mass does not follow from that at 1: the tail
is no single token. So the mass is stored for a grid of temperatures.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from potstill.labels.positions import Column, Columns, pack_ids, packed_width, unpack_ids
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
            "head_ids": Column(np.uint8, packed_width(self.k, self.vocabulary)),
            "head_logits": Column(np.float16, self.k),
            "log_tails": Column(np.float16, len(self.temperatures)),
        }

    def encode(self, logits: Float[Tensor, "positions vocabulary"]) -> Columns:
        """The columns; the logits are overwritten."""
        top = logits.topk(self.k, dim=1)
        # Relative to the likeliest, so that half precision has its digits where the mass is.
        relative = top.values - top.values[:, :1]
        logits.sub_(top.values[:, :1]).scatter_(1, top.indices, -torch.inf)
        tails = []
        softened = torch.empty_like(logits)
        for temperature in self.temperatures:
            tail = torch.mul(logits, 1 / temperature, out=softened).exp_().sum(dim=1).log()
            tails.append(tail - torch.logaddexp(tail, torch.logsumexp(relative / temperature, dim=1)))
        return {
            "head_ids": pack_ids(top.indices.cpu().numpy(), self.vocabulary),
            "head_logits": relative.half().cpu().numpy(),
            # A tail of nothing, where k is the vocabulary, is a finite number too.
            "log_tails": torch.stack(tails, dim=1).clamp(min=LEAST_LOG_MASS, max=0).half().cpu().numpy(),
        }

    def encode_given(self, buckets: Buckets) -> Columns:
        """The columns of what is known of k tokens or more, the likeliest first, at temperature 1 alone."""
        assert self.temperatures == (1.0,), "what is known at temperature 1 serves no other"
        kept, rest = buckets.log_head[:, : self.k], buckets.log_head[:, self.k :]
        tail = torch.logsumexp(torch.cat([rest, buckets.log_tail[:, None]], dim=1), dim=1)
        return {
            "head_ids": pack_ids(buckets.ids[:, : self.k].cpu().numpy(), self.vocabulary),
            "head_logits": (kept - kept[:, :1]).half().cpu().numpy(),
            "log_tails": tail[:, None].clamp(min=LEAST_LOG_MASS, max=0).half().cpu().numpy(),
        }

    def mass(self, columns: Mapping[str, Tensor]) -> Mass:
        device = columns["head_ids"].device
        ids = unpack_ids(columns["head_ids"].cpu().numpy(), self.k, self.vocabulary)
        return Mass(
            torch.from_numpy(ids).to(device),
            columns["head_logits"].float(),
            columns["log_tails"].float(),
            self.temperatures,
            self.vocabulary,
        )
