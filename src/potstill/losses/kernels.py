"""The passes over a chunk of logits that the chunked loss makes, compiled where the machine can compile.

Each is plain torch, and is used as it is where the compiler fails; the reason is then given once.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from potstill.compiling import compiled_pass
from potstill.divergences import temperature_scale
from potstill.losses.terms import SoftTerm, Term
from potstill.signals import IGNORE_INDEX


def settings_of(terms: Sequence[Term], like: Tensor) -> Float[Tensor, "terms 2"]:
    """Weight and temperature of each term as a tensor: numbers would make a schedule compile at every step."""
    # Filled where it is read. A copy from the host would wait for all that the device has to do.
    settings = like.new_empty(len(terms), 2)
    for pair, term in zip(settings, terms, strict=True):
        pair[0].fill_(term.weight)
        pair[1].fill_(term.temperature if isinstance(term, SoftTerm) else 1.0)
    return settings


def full(
    terms: tuple[Term, ...],
    student: Float[Tensor, "positions vocabulary"],
    teachers: list[Tensor],
    labels: Int[Tensor, "positions"],
    settings: Float[Tensor, "terms 2"],
) -> Float[Tensor, "terms"]:
    """The sum of each term over the positions; `student` becomes the gradient of the weighted sum by its logits.

    `teachers` holds logits for each soft term, in the order of the terms.
    """
    gradient = torch.zeros_like(student)
    sums, remaining = [], list(teachers)
    for number, term in enumerate(terms):
        weight, temperature = settings[number, 0], settings[number, 1]
        if isinstance(term, SoftTerm):
            log_q = softened(student, temperature)
            log_p = softened(remaining.pop(0), temperature)
            scale = temperature_scale(term.divergence, temperature)
            sums.append((term.divergence.value(log_p, log_q) * scale).sum())
            gradient = gradient + term.divergence.gradient(log_p, log_q) * (weight * scale / temperature)
        else:
            value, by_logits = hard_labels(softened(student, temperature), labels, term.label_smoothing)
            sums.append(value.sum())
            gradient = gradient + by_logits * weight
    student.copy_(gradient)
    return torch.stack(sums)


def softened(
    logits: Float[Tensor, "positions vocabulary"], temperature: Float[Tensor, ""]
) -> Float[Tensor, "positions vocabulary"]:
    """log_softmax(logits / T)."""
    if not torch.compiler.is_compiling():
        return torch.log_softmax(logits / temperature, dim=-1)
    # Written out, so that the compiler keeps no copy of the shifted logits.
    rate = 1 / temperature
    most = logits.amax(dim=-1, keepdim=True)
    return (logits - most) * rate - torch.exp((logits - most) * rate).sum(dim=-1, keepdim=True).log()


def hard_labels(
    log_q: Float[Tensor, "positions vocabulary"], labels: Int[Tensor, "positions"], smoothing: float
) -> tuple[Float[Tensor, "positions"], Float[Tensor, "positions vocabulary"]]:
    """Cross-entropy and its gradient by the logits; both are 0 where there is no label."""
    known = labels != IGNORE_INDEX
    label = labels.where(known, 0)[:, None]
    value = -(1 - smoothing) * log_q.gather(1, label).squeeze(1)
    wanted = (torch.arange(log_q.shape[1], device=log_q.device) == label).to(log_q.dtype) * (1 - smoothing)
    if smoothing:
        value = value - smoothing * log_q.mean(dim=-1)
        wanted = wanted + smoothing / log_q.shape[1]
    return value.where(known, 0.0), (log_q.exp() - wanted) * known[:, None].to(log_q.dtype)


def row_log_sum_exp(
    logits: Float[Tensor, "positions vocabulary"], temperatures: Float[Tensor, "temperatures"]
) -> Float[Tensor, "positions temperatures"]:
    """log(sum(exp(logits / T))) for each temperature."""
    return torch.stack([torch.logsumexp(logits / each, dim=-1) for each in temperatures.unbind()], dim=1)


def mix_softmaxes(
    logits: Float[Tensor, "positions vocabulary"],
    temperatures: Float[Tensor, "temperatures"],
    log_sums: Float[Tensor, "positions temperatures"],
    shares: Float[Tensor, "positions temperatures"],
) -> None:
    """`logits` becomes `sum over T of share_T * exp(logits / T - log_sum_T)`."""
    mixed = torch.zeros_like(logits)
    for number, temperature in enumerate(temperatures.unbind()):
        mixed = mixed + torch.exp(logits / temperature - log_sums[:, number, None]) * shares[:, number, None]
    logits.copy_(mixed)


class Kernels:
    """The passes, compiled if asked for and possible."""

    def __init__(self, *, compiled: bool) -> None:
        self.compiled = compiled
        self.full = self._make(full)
        self.row_log_sum_exp = self._make(row_log_sum_exp)
        self.mix_softmaxes = self._make(mix_softmaxes)

    def log_sum_exp(
        self, logits: Float[Tensor, "positions vocabulary"], temperature: float
    ) -> Float[Tensor, "positions"]:
        """log(sum(exp(logits / T))) over the vocabulary."""
        summed: Tensor = self.row_log_sum_exp(logits, logits.new_full((1,), temperature))
        return summed[:, 0]

    def _make(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        if not self.compiled:
            return plain
        return compiled_pass(plain, wanted=lambda: self.compiled, give_up=self._use_plain)

    def _use_plain(self, reason: str) -> None:
        self.compiled = False
        warnings.warn(f"torch.compile failed, so losses run uncompiled and slower: {reason}", stacklevel=4)
