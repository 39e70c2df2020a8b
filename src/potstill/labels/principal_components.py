"""Hidden states as components in the metric of the logits, largest first, in steps for 8 bits."""

from collections.abc import Mapping
from functools import reduce

import torch
from jaxtyping import Float, Int8
from torch import Tensor

from potstill.targets import Head

LEVELS = 127
ROWS = 16_384
"""Rows of the head that are in double precision at a time on an accelerator."""


def components(
    hidden: Float[Tensor, "positions width"], head: Head, rank: int, *, rows: int | None = None
) -> dict[str, Tensor]:
    """PCA of hidden states by the squared error that it leaves in the logits, up to a constant for each position.

    `project` maps a state, less `mean`, to components in steps: the largest of the sample has 127. `factor` and
    `offset` map them to logits. With M = (W - mean)^T (W - mean), the error of a state by d costs d^T M d; M = L L^T
    whitens it, and PCA of L^T h is the best approximation of that rank in this metric (Eckart and Young 1936).
    All that is before a soft cap, which is put on what comes of it. `rows` of the head are in double precision at a
    time.
    """
    weight = head.weight.detach()
    # In double precision whole on a CPU alone: an accelerator has the teacher beside it.
    blocks = torch.split(weight, rows or (ROWS if weight.is_cuda else len(weight)))

    def wide(block: Tensor) -> Tensor:
        return block.double() * head.scale

    centre = _sum([wide(block).mean(dim=0) * (len(block) / len(weight)) for block in blocks])
    metric = _sum([(each := wide(block) - centre).T @ each for block in blocks])
    # A little of the identity, for heads of which some direction never shows.
    metric += torch.eye(len(metric), dtype=metric.dtype, device=metric.device) * (metric.trace() / len(metric) * 1e-9)
    lower = torch.linalg.cholesky(metric)
    mean = hidden.double().mean(dim=0)
    whitened = (hidden.double() - mean) @ lower
    _, vectors = torch.linalg.eigh(whitened.T @ whitened)
    basis = vectors[:, -rank:].flip(1)
    project = lower @ basis
    # The rare value beyond what the sample had is cut.
    scale = ((hidden.double() - mean) @ project).abs().amax(dim=0).clamp(min=1e-8) / LEVELS
    back = torch.linalg.solve_triangular(lower.T, basis, upper=True)
    offset = torch.cat([wide(block) @ mean for block in blocks])
    if head.bias is not None:
        offset = offset + head.bias.detach().double() * head.scale
    found = {
        "project": (project / scale).float().cpu(),
        "mean": mean.float().cpu(),
        "factor": torch.cat([(wide(block) @ (back * scale)).float() for block in blocks]).cpu(),
        "offset": offset.float().cpu(),
    }
    if head.soft_cap is not None:
        found["soft_cap"] = torch.tensor(head.soft_cap)
    return found


def head_of_components(
    factor: Float[Tensor, "vocabulary components"], offset: Float[Tensor, "vocabulary"], tensors: Mapping[str, Tensor]
) -> Head:
    """The map from components, in steps, to logits."""
    cap = float(tensors["soft_cap"]) if "soft_cap" in tensors else None
    return Head(factor, offset, soft_cap=cap)


def _sum(parts: list[Tensor]) -> Tensor:
    return reduce(torch.add, parts)


def rounded(values: Float[Tensor, "positions components"]) -> Int8[Tensor, "positions components"]:
    """8-bit codes, cut where a value is beyond them."""
    return values.round().clamp(-LEVELS, LEVELS).to(torch.int8)
