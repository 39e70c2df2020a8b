"""Terms that name a few tokens at each position: top-k buckets, samples, labels. The vocabulary is never copied.

Two passes over a chunk of logits: one sums the tokens that are not named, one turns the logits into the gradient.
All else is of size positions x k. Where the gradient is wanted in another type than the logits, it is written in that
at once, and rounded once: what named tokens add to it is put where they are, and not added to what is rounded already.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from potstill.divergences import temperature_scale
from potstill.losses.kernels import Kernels
from potstill.losses.terms import HardTerm, SoftTerm, Term
from potstill.signals import IGNORE_INDEX
from potstill.targets import Buckets

_NOTHING = -1e30
"""Stands for log(0) where -inf minus -inf would be NaN."""
_LEAST_LOG_SHARE = -1e4
"""A log-probability whose product with a probability of zero is zero."""


class SparseTargetTerms:
    """One chunk: its logits, which become the gradient in place, and the terms on it. Use it once.

    With `out`, of another type, that becomes the gradient.
    """

    def __init__(
        self,
        logits: Float[Tensor, "positions vocabulary"],
        labels: Int[Tensor, "positions"],
        terms: Sequence[Term],
        settings: Float[Tensor, "terms 2"],
        kernels: Kernels,
        out: Float[Tensor, "positions vocabulary"] | None = None,
    ) -> None:
        self._logits = logits
        self._out = out
        self._terms = terms
        self._kernels = kernels
        self._settings = settings
        self._known = (labels != IGNORE_INDEX).to(logits.dtype)
        self._label = labels.clamp(min=0)[:, None]
        # Before any token is taken out.
        self._label_logits = logits.gather(1, self._label).squeeze(1)
        smoothed = any(isinstance(term, HardTerm) and term.label_smoothing for term in terms)
        self._mean_logits = logits.mean(dim=1) if smoothed else None

    def with_labels_alone(self) -> Float[Tensor, "terms"]:
        """Sums of the hard terms; there is no other."""
        log_sums = self._sums_of_unnamed()
        values, shares = [], torch.zeros_like(log_sums)
        for number, term in enumerate(self._terms):
            assert isinstance(term, HardTerm)
            values.append(self._hard(term, log_sums[:, number]))
            shares[:, number] = term.weight * self._known
        self._mix(log_sums, shares, self._out)
        if self._out is None:
            self._subtract_labels()
        else:
            self._put_labels(self._out, log_sums, shares)
        return torch.stack([value.sum() for value in values])

    def with_samples(
        self,
        ids: Int[Tensor, "positions k"],
        weights: Float[Tensor, "positions k"],
        entropy: Float[Tensor, "positions"],
    ) -> Float[Tensor, "terms"]:
        """Sums of the terms where the teacher's distribution is a weighted sample of tokens."""
        sampled = self._logits.gather(1, ids)
        log_sums = self._sums_of_unnamed()
        values, shares = [], torch.zeros_like(log_sums)
        pulls = torch.zeros_like(sampled)
        for number, term in enumerate(self._terms):
            if isinstance(term, HardTerm):
                values.append(self._hard(term, log_sums[:, number]))
                shares[:, number] = term.weight * self._known
            else:
                values.append(-entropy - (weights * (sampled - log_sums[:, number, None])).sum(dim=1))
                shares[:, number] = term.weight * weights.sum(dim=1)
                pulls -= term.weight * weights
        self._mix(log_sums, shares, None)
        self._logits.scatter_add_(1, ids, pulls)
        self._subtract_labels()
        if self._out is not None:
            # A token may be drawn twice, so what samples add is a sum.
            self._out.copy_(self._logits)
        return torch.stack([value.sum() for value in values])

    def with_buckets(self, buckets: Sequence[Buckets]) -> Float[Tensor, "terms"]:
        """Sums of the terms where k tokens are known and the others are one bucket; buckets for each soft term."""
        ids = buckets[0].ids
        head = self._logits.gather(1, ids)
        # Taken out, so that the mass of the others is a sum and not 1 minus the head, which has no digits left
        # where the head has nearly all.
        self._logits.scatter_(1, ids, -torch.inf)
        tails = self._sums_of_unnamed()
        log_sums, shares = tails.clone(), torch.zeros_like(tails)
        by_head = torch.zeros_like(head)
        values, remaining = [], list(buckets)
        for number, term in enumerate(self._terms):
            temperature = self._settings[number, 1]
            tail = tails[:, number]
            whole = torch.logaddexp(tail, torch.logsumexp(head / temperature, dim=1))
            log_q = head / temperature - whole[:, None]
            if isinstance(term, HardTerm):
                values.append(self._hard(term, whole))
                log_sums[:, number] = whole
                shares[:, number] = term.weight * self._known
                by_head += (term.weight * self._known)[:, None] * log_q.exp()
            else:
                value, by_bucket = _soft(term, remaining.pop(0), log_q, (tail - whole).clamp(min=_LEAST_LOG_SHARE))
                values.append(value)
                # Within the tail the student's own odds stay as they are: its gradient is spread by them.
                shares[:, number] = by_bucket[:, -1]
                by_head += by_bucket[:, :-1]
        self._mix(log_sums, shares, self._out)
        if self._out is None:
            self._logits.scatter_(1, ids, by_head - self._smoothing())
            self._subtract_labels()
        else:
            # A label that is in the head is overwritten there.
            self._put_labels(self._out, log_sums, shares)
            by_head -= self._smoothing() + (ids == self._label) * self._by_labels()
            self._out.scatter_(1, ids, by_head.to(self._out.dtype))
        return torch.stack([value.sum() for value in values])

    def _sums_of_unnamed(self) -> Float[Tensor, "positions terms"]:
        sums: Tensor = self._kernels.row_log_sum_exp(self._logits, self._settings[:, 1])
        return sums.clamp(min=_NOTHING)

    def _hard(self, term: HardTerm, log_sum: Float[Tensor, "positions"]) -> Float[Tensor, "positions"]:
        value = -(1 - term.label_smoothing) * (self._label_logits - log_sum)
        if self._mean_logits is not None:
            value = value - term.label_smoothing * (self._mean_logits - log_sum)
        return value * self._known

    def _mix(
        self,
        log_sums: Float[Tensor, "positions terms"],
        shares: Float[Tensor, "positions terms"],
        out: Float[Tensor, "positions vocabulary"] | None,
    ) -> None:
        less = None if self._mean_logits is None else self._smoothing()
        self._kernels.mix_softmaxes(self._logits, self._settings[:, 1], log_sums, shares, less, out)

    def _smoothing(self) -> Float[Tensor, "positions 1"]:
        """What label smoothing subtracts from the gradient at every token."""
        smoothed = sum(term.weight * term.label_smoothing for term in self._terms if isinstance(term, HardTerm))
        return (self._known * (smoothed / self._logits.shape[1]))[:, None]

    def _by_labels(self) -> Float[Tensor, "positions 1"]:
        """What labels subtract from the gradient where they are."""
        sharp = sum(term.weight * (1 - term.label_smoothing) for term in self._terms if isinstance(term, HardTerm))
        return (self._known * sharp)[:, None]

    def _subtract_labels(self) -> None:
        self._logits.scatter_add_(1, self._label, -self._by_labels())

    def _put_labels(
        self,
        out: Float[Tensor, "positions vocabulary"],
        log_sums: Float[Tensor, "positions terms"],
        shares: Float[Tensor, "positions terms"],
    ) -> None:
        """The gradient at the labels, as it is where no head has them."""
        mixed = torch.exp(self._label_logits[:, None] / self._settings[:, 1] - log_sums) * shares
        whole = mixed.sum(dim=1, keepdim=True) - self._smoothing() - self._by_labels()
        out.scatter_(1, self._label, whole.to(out.dtype))


def _soft(
    term: SoftTerm, buckets: Buckets, log_q_head: Float[Tensor, "positions k"], log_q_tail: Float[Tensor, "positions"]
) -> tuple[Float[Tensor, "positions"], Float[Tensor, "positions buckets"]]:
    """The term's value, and the gradient of its weighted value by the logits of the k + 1 buckets."""
    log_p = torch.cat([buckets.log_head, buckets.log_tail[:, None]], dim=1).to(log_q_head.dtype)
    log_q = torch.cat([log_q_head, log_q_tail[:, None]], dim=1)
    scale = temperature_scale(term.divergence, term.temperature)
    by_bucket = term.divergence.gradient(log_p, log_q) * (term.weight * scale / term.temperature)
    return term.divergence.value(log_p, log_q) * scale, by_bucket
