"""The mixed loss of a language model without its logits: through head and loss in chunks of positions.

A chunk's logits are made, turned into the gradient in place, multiplied into the gradients of hidden states and head,
and forgotten. So memory grows with a chunk and not with positions times vocabulary, and nothing is computed twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from potstill.divergences import ForwardKL
from potstill.losses.kernels import Kernels, few_passes, settings_of
from potstill.losses.sparse_targets import SparseTargetTerms
from potstill.losses.terms import SoftTerm, Term
from potstill.products import add_product, wide_product
from potstill.targets import FullTarget, GroupedTarget, Head, SampledTargets, SparseTarget, Target, logits_and_sums


@dataclass(frozen=True)
class Loss:
    """`sum of weight_i * term_i` over positions, with the terms' own sums in the order given."""

    total: Float[Tensor, ""]
    parts: Float[Tensor, "terms"]


def chunked_loss(
    hidden: Float[Tensor, "positions width"],
    head: Head,
    labels: Int[Tensor, "positions"],
    target: Target | None,
    terms: Sequence[Term],
    *,
    kernels: Kernels,
    rows_at_once: int | None = None,
) -> Loss:
    """The summed loss over all positions given, with its gradients by `hidden`, the head's weight and its bias.

    Only positions that count are given: a masked one costs nothing if it is not there. `labels` is IGNORE_INDEX
    where there is no hard label. Under autocast the matrix products run in its type; sums are float32 at least.

    Raises:
        ValueError: a soft term that the target cannot serve, or another number of positions in it.
    """
    _check(labels, target, terms)
    rows = rows_at_once or head.chunk_rows
    work = _Work(head, labels, target, tuple(terms), kernels, rows, torch.is_grad_enabled())
    total, parts = _ChunkedLoss.apply(hidden, head.weight, head.bias, work)  # type: ignore[no-untyped-call]
    return Loss(total, parts)


def _check(labels: Tensor, target: Target | None, terms: Sequence[Term]) -> None:
    soft = [term for term in terms if isinstance(term, SoftTerm)]
    # A process without rows in this step has no positions, and no teacher for them.
    if soft and target is None and len(labels):
        raise ValueError(f"{soft[0].name}: no teacher was given")
    if target is not None and len(target) != len(labels):
        raise ValueError(f"the teacher speaks of {len(target)} positions, the student of {len(labels)}")
    for term in soft:
        if not term.temperature > 0:
            raise ValueError(f"temperature must be positive, got {term.temperature}")
        linear = isinstance(term.divergence, ForwardKL) and term.temperature == 1
        if isinstance(target, SampledTargets) and not linear:
            raise ValueError(f"{term.name}: a sampled teacher serves forward_kl at temperature 1 alone")


@dataclass(frozen=True)
class _Work:
    head: Head
    labels: Tensor
    target: Target | None
    terms: tuple[Term, ...]
    kernels: Kernels
    rows: int
    differentiated: bool


class _ChunkedLoss(torch.autograd.Function):
    """Gradients are computed in the forward pass, where a chunk's logits exist; backward only scales them."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, work: _Work) -> tuple[Tensor, Tensor]:
        kind = hidden.device.type
        # Products in the type that autocast would use; this function runs with autocast off, to choose by itself.
        product = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        wanted = [work.differentiated and needed for needed in ctx.needs_input_grad]
        with torch.autocast(kind, enabled=False):
            gradients, parts = _run(hidden, weight, bias, work, product, wanted)
        ctx.gradients = gradients
        ctx.mark_non_differentiable(parts)
        return (settings_of(work.terms, parts)[:, 0] * parts).sum(), parts

    @staticmethod
    def backward(ctx: Any, by_total: Tensor, by_parts: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the chunked loss can be differentiated once; its gradients were given away")
        gradients, ctx.gradients = ctx.gradients, None
        return (*(None if each is None else each.mul_(by_total.to(each.dtype)) for each in gradients), None)


def _run(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    work: _Work,
    product: torch.dtype,
    wanted: Sequence[bool],
) -> tuple[list[Tensor | None], Tensor]:
    sums_type = torch.float64 if weight.dtype == torch.float64 else torch.float32
    by_hidden = torch.zeros_like(hidden) if wanted[0] else None
    by_weight: Tensor | None = None
    if wanted[1] and not few_passes(hidden.device):
        # A product that is the first to touch this memory took a CPU half as long again as zeros and a sum.
        by_weight = torch.zeros_like(weight, dtype=sums_type)
    by_bias = torch.zeros_like(bias, dtype=sums_type) if bias is not None and wanted[2] else None
    parts = torch.zeros(len(work.terms), dtype=sums_type, device=hidden.device)
    narrow = weight.to(product)
    target = work.target
    if product.itemsize < 4 and isinstance(target, FullTarget):
        target = target.with_products_in(product)
    # One buffer for all chunks: a new one each time would be held beside the old one.
    settings = settings_of(work.terms, parts)
    buffer = torch.empty(min(work.rows, len(hidden)), len(weight), dtype=sums_type, device=hidden.device)
    # The gradient as products take it, written as such where nothing is done to it before.
    at_once = _is_taken_as_it_is(work.head) and _is_narrower(product, buffer) and few_passes(buffer.device)
    narrow_buffer = torch.empty_like(buffer, dtype=product) if at_once else None
    for start in range(0, len(hidden), work.rows):
        rows = slice(start, min(start + work.rows, len(hidden)))
        states = hidden[rows].to(product)
        logits = wide_product(states, narrow.T, out=buffer[: len(states)])
        if bias is not None:
            logits += bias
        slope = _activate(logits, work.head)
        labels = work.labels[rows]
        out = None if narrow_buffer is None else narrow_buffer[: len(states)]
        parts += logit_terms(logits, labels, target, rows, work.terms, kernels=work.kernels, settings=settings, out=out)
        if slope is not None:
            logits *= slope
        if by_bias is not None:
            by_bias += logits.sum(dim=0)
        gradient = logits.to(product) if out is None else out
        if by_hidden is not None:
            by_hidden[rows] = wide_product(gradient, narrow)
        if by_weight is not None:
            add_product(by_weight, gradient.T, states)
        elif wanted[1]:
            by_weight = wide_product(gradient.T, states)
    if wanted[1] and by_weight is None:
        by_weight = torch.zeros_like(weight)
    return [
        by_hidden,
        None if by_weight is None else by_weight.to(weight.dtype),
        None if by_bias is None or bias is None else by_bias.to(bias.dtype),
    ], parts


def _is_taken_as_it_is(head: Head) -> bool:
    """Whether the gradient by the logits is that by the product."""
    return head.bias is None and head.scale == 1.0 and head.soft_cap is None


def _is_narrower(product: torch.dtype, logits: Tensor) -> bool:
    return product.itemsize < logits.dtype.itemsize


def _activate(logits: Tensor, head: Head) -> Tensor | None:
    """Scale and soft cap, in place; what the gradient by the logits is multiplied with to be that by the product."""
    if head.scale != 1.0:
        logits *= head.scale
    if head.soft_cap is None:
        return None if head.scale == 1.0 else logits.new_full((), head.scale)
    logits.div_(head.soft_cap).tanh_()
    slope = logits.square().neg_().add_(1).mul_(head.scale)
    logits.mul_(head.soft_cap)
    return slope


def logit_terms(
    logits: Float[Tensor, "positions vocabulary"],
    labels: Int[Tensor, "positions"],
    target: Target | None,
    rows: slice,
    terms: tuple[Term, ...],
    *,
    kernels: Kernels,
    settings: Float[Tensor, "terms 2"] | None = None,
    out: Float[Tensor, "positions vocabulary"] | None = None,
) -> Float[Tensor, "terms"]:
    """The sums of the terms over the positions `rows` of the target; `logits` become the gradient of their mix.

    `settings` are those of the terms, for who asks for many chunks. With `out`, of another type, that becomes the
    gradient, and what is left of `logits` is nothing.
    """
    if settings is None:
        settings = settings_of(terms, logits)
    soft = [term for term in terms if isinstance(term, SoftTerm)]
    if soft and isinstance(target, FullTarget):
        said = [_said(target, logits, rows, term.temperature, kernels) for term in soft]
        teachers, log_sums = [each for each, _ in said], [known for _, known in said]
        if not few_passes(logits.device):
            log_sums = [None] * len(soft)
        # Beside a teacher whose sums are known, those of the student for all terms are one pass. If they are not, both
        # are made alike, so that a student that is its teacher has exactly nothing to learn.
        known = all(each is not None for each in log_sums)
        student_sums = kernels.row_log_sum_exp(logits, settings[:, 1]) if known else None
        sums: Tensor = kernels.full(terms, logits, teachers, labels, settings, log_sums, student_sums, out)
        return sums
    sparse = SparseTargetTerms(logits, labels, terms, settings, kernels, out)
    if soft and isinstance(target, SparseTarget):
        return sparse.with_buckets([target.buckets_at(rows, term.temperature) for term in soft])
    if soft and isinstance(target, SampledTargets):
        return sparse.with_samples(target.ids[rows], target.weights[rows], target.entropy[rows])
    return sparse.with_labels_alone()


def _said(
    target: FullTarget, student: Tensor, rows: slice, temperature: float, kernels: Kernels
) -> tuple[Tensor, Tensor | None]:
    """A target's logits for a student with these, which decides what the target leaves open; and their log-sums where
    they are known."""
    if isinstance(target, GroupedTarget):
        return target.logits_beside(student, rows, temperature, kernels.log_sum_exp), None
    return logits_and_sums(target, rows, temperature, kernels.log_sum_exp)
