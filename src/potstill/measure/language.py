"""How near a language model is to its teacher and to the truth, token by token, without whole logits."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from potstill.targets import Head

CHUNK = 64
"""Positions whose logits are held at a time."""


@dataclass(frozen=True)
class TokenMeasures:
    """One number for each position, in the order in which they were given."""

    loss: npt.NDArray[np.float64]
    """Negative log-likelihood of the true token in nats."""
    right: npt.NDArray[np.bool_]
    """Whether the likeliest token is the true one."""
    confidence: npt.NDArray[np.float64]
    """Probability of the likeliest token."""
    kl: npt.NDArray[np.float64]
    """KL(teacher || model) at temperature 1 in nats."""
    agrees: npt.NDArray[np.bool_]
    """Whether the likeliest token is the teacher's."""
    probability_difference: npt.NDArray[np.float64]
    """Probability of the teacher's likeliest token: the model's minus the teacher's."""


@torch.inference_mode()
def measure_tokens(
    hidden: Float[Tensor, "positions width"],
    head: Head,
    teacher_hidden: Float[Tensor, "positions teacher_width"],
    teacher_head: Head,
    labels: Int[Tensor, "positions"],
) -> TokenMeasures:
    """Compare a model with its teacher and the true tokens at these positions."""
    found: list[list[Tensor]] = []
    for start in range(0, len(labels), CHUNK):
        rows = slice(start, start + CHUNK)
        log_q = torch.log_softmax(head.logits(hidden[rows]), dim=1)
        log_p = torch.log_softmax(teacher_head.logits(teacher_hidden[rows]), dim=1)
        most, said = log_q.max(dim=1)
        teacher_most, teacher_said = log_p.max(dim=1)
        found.append(
            [
                -log_q.gather(1, labels[rows, None]).squeeze(1).double(),
                said == labels[rows],
                most.exp().double(),
                (log_p.exp() * (log_p - log_q)).sum(dim=1).double(),
                said == teacher_said,
                (log_q.gather(1, teacher_said[:, None]).squeeze(1).exp() - teacher_most.exp()).double(),
            ]
        )
    return TokenMeasures(*(torch.cat(column).cpu().numpy() for column in zip(*found, strict=True)))


def joined(parts: Sequence[TokenMeasures]) -> TokenMeasures:
    """The measures of several batches, one after the other."""
    return TokenMeasures(*(np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])))
