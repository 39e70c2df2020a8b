"""The sampled encoding: few tokens with weights that are right on average. Smallest; for temperature 1 alone."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from potstill.capabilities import Facts
from potstill.labels.checks import refused_positions
from potstill.labels.largest import largest
from potstill.labels.packed_ids import pack_ids, packed_width, unpack_ids
from potstill.labels.positions import Column, TensorColumns
from potstill.settings import Settings
from potstill.targets import Head, SampledTargets, Target


class Sampled(Settings):
    """k tokens by threshold sampling: those above a threshold always, of the others a fair share."""

    kind: Literal["sampled"] = "sampled"
    whole: ClassVar[bool] = False
    k: int = Field(default=16, ge=1)
    seed: int = Field(default=0, ge=0)

    def refusals(self, where: str, facts: Facts) -> Iterator[str]:
        yield from refused_positions(self.kind, where, facts)
        if not facts.online and facts.temperatures != (1, 1):
            yield f"{where}: sampled serves temperature 1 alone, and the losses use another."

    def columns(self, vocabulary: int, width: int, temperatures: tuple[float, ...]) -> Mapping[str, Column]:
        return SampledCodec(min(self.k, vocabulary), vocabulary, self.seed).columns

    def fit(
        self, hidden: Float[Tensor, "positions width"], head: Head, temperatures: tuple[float, ...]
    ) -> "SampledCodec":
        return self.load({}, len(head.weight), temperatures)

    def load(self, tensors: Mapping[str, Tensor], vocabulary: int, temperatures: tuple[float, ...]) -> "SampledCodec":
        return SampledCodec(min(self.k, vocabulary), vocabulary, self.seed)


@dataclass(frozen=True)
class SampledCodec:
    k: int
    vocabulary: int
    seed: int

    @property
    def columns(self) -> Mapping[str, Column]:
        return {
            "sample_ids": Column(np.uint8, packed_width(self.k, self.vocabulary), (self.k, self.vocabulary)),
            "sample_weights": Column(np.float16, self.k),
            "entropy": Column(np.float32, 1),
        }

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        return {}

    def encode(
        self, hidden: Float[Tensor, "positions width"], logits: Float[Tensor, "positions vocabulary"]
    ) -> TensorColumns:
        log_p = torch.log_softmax(logits, dim=1)
        p = log_p.exp()
        ids, weights = threshold_sample(p, self.k, self._starts(hidden))
        return {
            "sample_ids": pack_ids(ids, self.vocabulary),
            "sample_weights": weights.half(),
            "entropy": -(p * log_p).sum(dim=1, keepdim=True).float(),
        }

    def target(self, columns: Mapping[str, Tensor]) -> Target:
        weights = columns["sample_weights"].float()
        return SampledTargets(
            unpack_ids(columns["sample_ids"], self.k, self.vocabulary),
            weights / weights.sum(dim=1, keepdim=True),
            columns["entropy"].float().squeeze(1),
        )

    def _starts(self, hidden: Float[Tensor, "positions width"]) -> Float[Tensor, "positions"]:
        """A number in [0, 1) for each position from its own state, so that a resumed job draws what it drew before."""
        generator = np.random.default_rng(self.seed)
        phases = torch.from_numpy(generator.uniform(100, 1000, hidden.shape[1])).to(hidden.device)
        return (hidden.double() @ phases).frac().abs().float()


def threshold_sample(
    p: Float[Tensor, "positions vocabulary"], k: int, starts: Float[Tensor, "positions"]
) -> tuple[Int[Tensor, "positions k"], Float[Tensor, "positions k"]]:
    """k distinct tokens of each position and their weights, which sum to one: E[weight of a token] = p.

    With the threshold t for which sum(min(1, p / t)) = k, tokens above t are taken with weight p, and of the others
    one for each t of their mass, at equal distances from a random start, with weight t (systematic sampling, Madow
    1949; the threshold is that of priority sampling, Duffield et al. 2007, doi:10.1145/1314690.1314696).
    """
    most, ids = largest(p, k)
    ranked = most.double()
    # With the first j taken for certain, the threshold is what is left, shared by the k - j others.
    left = p.double().sum(dim=1, keepdim=True) - ranked.cumsum(dim=1) + ranked
    shares = left / (k - torch.arange(k, device=p.device))
    certain = (ranked >= shares).long().cumprod(dim=1).sum(dim=1, keepdim=True).clamp(max=k - 1)
    threshold = shares.gather(1, certain)
    number = torch.arange(k, device=p.device) - certain
    # The others in the order of the vocabulary, those that are certain taken out.
    others = p.double().scatter(1, ids, torch.where(number < 0, 0.0, ranked)).cumsum(dim=1)
    points = (starts.double()[:, None] + number) * threshold
    drawn = torch.searchsorted(others, points, right=True).clamp(max=p.shape[1] - 1)
    weights = torch.where(number < 0, ranked, threshold)
    return torch.where(number < 0, ids, drawn), (weights / weights.sum(dim=1, keepdim=True)).to(p.dtype)
