"""One problem with a vocabulary of a real shape, to run on another device or through compiled passes."""

from typing import Any

import torch
from torch import Tensor

from potstill.labels.error import as_tensors
from potstill.labels.hidden import Hidden
from potstill.labels.low_rank import LowRank
from potstill.labels.sampled import Sampled
from potstill.labels.top_k import TopK
from potstill.losses.chunked import chunked_loss
from potstill.losses.kernels import Kernels
from potstill.losses.terms import HardTerm, SoftTerm
from potstill.signals import IGNORE_INDEX
from potstill.targets import Head, HiddenTargets, LogitTargets, Target

VOCABULARY, POSITIONS, STUDENT, TEACHER = 1501, 150, 48, 64
GRID = (1.0, 2.0)
ENCODINGS = {"top_k": TopK(k=20), "low_rank": LowRank(head=8, rank=16), "hidden": Hidden(), "sampled": Sampled()}
CPU = torch.device("cpu")


def drawn(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    """Numbers that bfloat16 holds exactly."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=generator) * scale).bfloat16().double()


HIDDEN, WEIGHT, BIAS = (
    drawn(POSITIONS, STUDENT, seed=1),
    drawn(VOCABULARY, STUDENT, seed=2, scale=0.3),
    drawn(VOCABULARY, seed=3),
)
STATES, TEACHER_HEAD = drawn(POSITIONS, TEACHER, seed=4), Head(drawn(VOCABULARY, TEACHER, seed=5, scale=0.4))
LABELS = torch.arange(POSITIONS).where(torch.arange(POSITIONS) % 3 > 0, IGNORE_INDEX)


def said(kind: str, device: torch.device, dtype: torch.dtype) -> Target:
    """What the teacher says; an encoding has the same columns on either device."""
    weight = TEACHER_HEAD.weight.to(device, dtype)
    if kind == "states":
        return HiddenTargets(STATES.to(device, dtype), Head(weight))
    if kind == "logits":
        return LogitTargets(STATES.to(device, dtype) @ weight.T)
    codec = ENCODINGS[kind].fit(STATES.float(), Head(TEACHER_HEAD.weight.float()), GRID)
    columns = codec.encode(STATES.float(), TEACHER_HEAD.logits(STATES).float())
    return codec.target(as_tensors(columns, device))


def run(kind: str, terms: Any, device: torch.device, dtype: torch.dtype, **how: Any) -> tuple[Tensor, list[Tensor]]:
    leaves = [each.to(device, dtype, copy=True).requires_grad_() for each in (HIDDEN, WEIGHT, BIAS)]
    head = Head(leaves[1], leaves[2], 1.0, how.pop("soft_cap", None))
    kernels = how.pop("kernels", Kernels(compiled=False))
    target = said(kind, device, dtype)
    found = chunked_loss(leaves[0], head, LABELS.to(device), target, terms, kernels=kernels, rows_at_once=64)
    return found.parts.double().cpu(), [each.double().cpu() for each in torch.autograd.grad(found.total, leaves)]


def agree(found: tuple[Tensor, list[Tensor]], expected: tuple[Tensor, list[Tensor]], share: float) -> None:
    torch.testing.assert_close(found[0], expected[0], rtol=share, atol=share)
    for gradient, wanted in zip(found[1], expected[1], strict=True):
        assert (gradient - wanted).norm() <= share * wanted.norm()


def terms_for(divergence: Any, temperature: float) -> tuple[Any, ...]:
    return SoftTerm("soft_targets", divergence, 0.7, temperature), HardTerm("hard_labels", 0.4, 0.1)
