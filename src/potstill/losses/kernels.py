"""The passes over a chunk of logits that the chunked loss makes, compiled where the machine can compile.

Each is plain torch, and is used as it is where the compiler fails; the reason is then given once. Most of their time
is that of reading and writing logits, so on a CUDA device they are written for few passes over them. Elsewhere the
order of sums stays as it always was, to the last bit.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from potstill.compiling import compiled_pass, with_known_columns
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


def few_passes(device: torch.device) -> bool:
    """Whether the passes over a chunk are those that read and write least."""
    return device.type == "cuda"


def full(
    terms: tuple[Term, ...],
    student: Float[Tensor, "positions vocabulary"],
    teachers: list[Tensor],
    labels: Int[Tensor, "positions"],
    settings: Float[Tensor, "terms 2"],
    log_sums: list[Tensor | None] | None = None,
    student_sums: Float[Tensor, "positions terms"] | None = None,
    out: Float[Tensor, "positions vocabulary"] | None = None,
) -> Float[Tensor, "terms"]:
    """The sum of each term over the positions; `student` becomes the gradient of the weighted sum by its logits.

    `teachers` holds logits for each soft term, in the order of the terms, and `log_sums` what is known of
    log(sum(exp(x / T))) of each; `student_sums` are those of the student for each term. With `out`, of another type,
    that becomes the gradient, and `student` stays.
    """
    with_known_columns(student)
    gradient = torch.zeros_like(student)
    sums, remaining, known = [], list(teachers), list(log_sums or [None] * len(teachers))
    for number, term in enumerate(terms):
        weight, temperature = settings[number, 0], settings[number, 1]
        log_q = softened(student, temperature, None if student_sums is None else student_sums[:, number])
        if isinstance(term, SoftTerm):
            log_p = softened(remaining.pop(0), temperature, known.pop(0))
            scale = temperature_scale(term.divergence, temperature)
            sums.append((term.divergence.value(log_p, log_q) * scale).sum())
            gradient = gradient + term.divergence.gradient(log_p, log_q) * (weight * scale / temperature)
        else:
            value, by_logits = hard_labels(log_q, labels, term.label_smoothing)
            sums.append(value.sum())
            gradient = gradient + by_logits * weight
    (student if out is None else out).copy_(gradient)
    return torch.stack(sums)


def softened(
    logits: Float[Tensor, "positions vocabulary"],
    temperature: Float[Tensor, ""],
    log_sum: Float[Tensor, "positions"] | None = None,
) -> Float[Tensor, "positions vocabulary"]:
    """log_softmax(logits / T), of which the log of the sum may be known."""
    if log_sum is not None:
        return logits * (1 / temperature) - log_sum[:, None]
    if not torch.compiler.is_compiling():
        return torch.log_softmax(logits / temperature, dim=-1)
    if few_passes(logits.device):
        scaled, most, total = _scaled(logits, temperature)
        return scaled - (most + total.log())
    # Written out, so that the compiler keeps no copy of the shifted logits.
    rate = 1 / temperature
    most = logits.amax(dim=-1, keepdim=True)
    return (logits - most) * rate - torch.exp((logits - most) * rate).sum(dim=-1, keepdim=True).log()


def _scaled(
    logits: Float[Tensor, "positions vocabulary"], temperature: Float[Tensor, ""]
) -> tuple[Float[Tensor, "positions vocabulary"], Float[Tensor, "positions 1"], Float[Tensor, "positions 1"]]:
    """x / T, the largest of it, and the sum of exp(x / T) relative to that.

    As torch's compiler must find it written to make both in one pass on a CUDA device: the first softened, then the
    largest taken, where that of x would do as well.
    """
    scaled = logits * (1 / temperature)
    most = scaled.amax(dim=-1, keepdim=True)
    return scaled, most, torch.exp(scaled - most).sum(dim=-1, keepdim=True)


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
    with_known_columns(logits)
    return torch.stack([_log_sum_exp(logits, each) for each in temperatures.unbind()], dim=1)


def _log_sum_exp(
    logits: Float[Tensor, "positions vocabulary"], temperature: Float[Tensor, ""]
) -> Float[Tensor, "positions"]:
    if not torch.compiler.is_compiling() or not few_passes(logits.device):
        return torch.logsumexp(logits / temperature, dim=-1)
    _, most, total = _scaled(logits, temperature)
    # Of nothing but -inf, nothing is relative to the largest.
    return torch.where(most > -torch.inf, most + total.log(), most).squeeze(-1)


def mix_softmaxes(
    logits: Float[Tensor, "positions vocabulary"],
    temperatures: Float[Tensor, "temperatures"],
    log_sums: Float[Tensor, "positions temperatures"],
    shares: Float[Tensor, "positions temperatures"],
    less: Float[Tensor, "positions 1"] | None = None,
    out: Float[Tensor, "positions vocabulary"] | None = None,
) -> None:
    """`logits` becomes `sum over T of share_T * exp(logits / T - log_sum_T)`, less a number for each position.

    With `out`, of another type, that becomes it, and `logits` stay.
    """
    with_known_columns(logits)
    mixed = torch.zeros_like(logits)
    for number, temperature in enumerate(temperatures.unbind()):
        scaled = logits * (1 / temperature) if few_passes(logits.device) else logits / temperature
        mixed = mixed + torch.exp(scaled - log_sums[:, number, None]) * shares[:, number, None]
    if less is not None:
        mixed = mixed - less
    (logits if out is None else out).copy_(mixed)


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
