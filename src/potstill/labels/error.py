"""How far stored labels are from the teacher, measured on positions that no fit has seen."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from potstill.labels.positions import Codec, Columns, TensorColumns
from potstill.records import LabelFidelity
from potstill.targets import Buckets, FullTarget, Head, SampledTargets, SparseTarget, Target


def measure_error(
    codec: Codec, hidden: Float[Tensor, "positions width"], head: Head, temperatures: Sequence[float]
) -> tuple[LabelFidelity, ...]:
    """The error of `codec` at each temperature that it serves, on these positions."""
    sums = {temperature: torch.zeros(3, dtype=torch.float64) for temperature in temperatures}
    sampled = False
    # Several arrays of a chunk's size are held.
    for states in torch.split(hidden, head.chunk_rows // 4):
        logits = head.logits(states)
        target = codec.target(as_tensors(codec.encode(states, logits.clone()), states.device))
        sampled = isinstance(target, SampledTargets)
        for temperature in temperatures:
            log_p = torch.log_softmax(logits / temperature, dim=1)
            log_stored, ids = stored_distribution(target, temperature, logits.shape[1])
            difference = log_p.exp() - log_stored.exp()
            kl = log_p.new_tensor(math.nan) if sampled else _kl(log_p, log_stored)
            captured = log_p.exp().gather(1, ids).sum()
            sums[temperature] += torch.stack([kl, difference.norm(dim=1).sum(), captured]).double().cpu()
    found = {temperature: (total / len(hidden)).tolist() for temperature, total in sums.items()}
    return tuple(
        LabelFidelity(temperature=temperature, kl=None if sampled else kl, distance=distance, captured_mass=captured)
        for temperature, (kl, distance, captured) in found.items()
    )


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """The sum of KL(p || q), of terms that are never negative: `q - p - p log(q / p)`, since both sum to one.

    Where p and q nearly agree, rounding leaves of the sum of `p log(p / q)` a number of either sign.
    """
    p = log_p.exp()
    return (log_q.exp() - p - p * (log_q - log_p)).clamp(min=0).sum()


def as_tensors(columns: Columns | TensorColumns, device: torch.device | None = None) -> TensorColumns:
    return {name: torch.as_tensor(values).to(device) for name, values in columns.items()}


def stored_distribution(target: Target, temperature: float, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities over the vocabulary as they are stored, and the tokens that are stored one by one."""
    rows = slice(None)
    if isinstance(target, SampledTargets):
        whole = target.weights.new_full((len(target), vocabulary), -math.inf)
        return whole.scatter(1, target.ids, target.weights.log()), target.ids
    if isinstance(target, SparseTarget):
        return _spread(target.buckets_at(rows, temperature), vocabulary)
    assert isinstance(target, FullTarget)
    logits = target.logits_at(rows, temperature, lambda body, t: torch.logsumexp(body / t, dim=1))
    mass = getattr(target, "mass", None)
    everything = torch.arange(vocabulary, device=logits.device).expand(len(target), -1)
    ids = everything if mass is None else mass.ids
    return torch.log_softmax(logits / temperature, dim=1), ids


def _spread(buckets: Buckets, vocabulary: int) -> tuple[Tensor, Tensor]:
    others = max(1, vocabulary - buckets.ids.shape[1])
    even = (buckets.log_tail - math.log(others))[:, None].expand(-1, vocabulary)
    return even.scatter(1, buckets.ids, buckets.log_head), buckets.ids
