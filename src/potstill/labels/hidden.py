"""The hidden encoding: last hidden states in 8 bits beside an exact head. Right at every temperature of the grid."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from potstill.labels.exact_head import ExactHead
from potstill.labels.positions import Column, Columns
from potstill.settings import Settings
from potstill.targets import Head, HiddenTargets, Target

LEVELS = 127


class Hidden(Settings):
    """Last hidden states, 8 bits a channel; the teacher's head once; the likeliest tokens and the tail exactly."""

    kind: Literal["hidden"] = "hidden"
    head: int = Field(default=16, ge=1)
    """Tokens whose probability is exact."""

    def columns(self, vocabulary: int, width: int, temperatures: tuple[float, ...]) -> Mapping[str, Column]:
        exact = ExactHead(min(self.head, vocabulary), vocabulary, temperatures).columns
        return {"codes": Column(np.int8, width)} | dict(exact)

    def fit(
        self, hidden: Float[Tensor, "positions width"], head: Head, temperatures: tuple[float, ...]
    ) -> "HiddenCodec":
        return self.load(head_tensors(head) | {"scale": channel_scale(hidden)}, len(head.weight), temperatures)

    def load(self, tensors: Mapping[str, Tensor], vocabulary: int, temperatures: tuple[float, ...]) -> "HiddenCodec":
        return HiddenCodec(ExactHead(min(self.head, vocabulary), vocabulary, temperatures), dict(tensors))


@dataclass(frozen=True, eq=False)
class HiddenCodec:
    head: ExactHead
    tensors: Mapping[str, Tensor]
    _heads: dict[torch.device, Head] = field(default_factory=dict)

    @property
    def columns(self) -> Mapping[str, Column]:
        return {"codes": Column(np.int8, len(self.tensors["scale"]))} | dict(self.head.columns)

    def encode(
        self, hidden: Float[Tensor, "positions width"], logits: Float[Tensor, "positions vocabulary"]
    ) -> Columns:
        return {"codes": rounded(hidden, self.tensors["scale"])} | self.head.encode(logits)

    def target(self, columns: Mapping[str, Tensor]) -> Target:
        return HiddenTargets(columns["codes"], self._head_for(columns["codes"].device), self.head.mass(columns))

    def _head_for(self, device: torch.device) -> Head:
        """The teacher's head for codes: their scale goes into its weight, once for all positions."""
        if device not in self._heads:
            self._heads[device] = self._make_head(device)
        return self._heads[device]

    def _make_head(self, device: torch.device) -> Head:
        bias = self.tensors.get("bias")
        return Head(
            (self.tensors["weight"] * self.tensors["scale"]).to(device),
            None if bias is None else bias.to(device),
            float(self.tensors["logit_scale"]),
            float(self.tensors["soft_cap"]) if "soft_cap" in self.tensors else None,
        )


def head_tensors(head: Head) -> dict[str, Tensor]:
    """A head as named tensors."""
    tensors = {"weight": head.weight.detach().float().cpu(), "logit_scale": torch.tensor(head.scale)}
    if head.bias is not None:
        tensors["bias"] = head.bias.detach().float().cpu()
    if head.soft_cap is not None:
        tensors["soft_cap"] = torch.tensor(head.soft_cap)
    return tensors


def channel_scale(values: Float[Tensor, "positions channels"]) -> Float[Tensor, "channels"]:
    """The step of each channel: its largest absolute value in a sample is 127 steps. The rare larger one is cut."""
    return (values.abs().amax(dim=0).clamp(min=1e-8) / LEVELS).float().cpu()


def rounded(values: Float[Tensor, "positions channels"], scale: Float[Tensor, "channels"]) -> np.ndarray:
    """8-bit codes, cut where a value is beyond what the sample had."""
    codes = (values.float() / scale.to(values.device)).round().clamp(-LEVELS, LEVELS)
    return codes.to(torch.int8).cpu().numpy()
