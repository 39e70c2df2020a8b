"""Divergences between a teacher's distribution p and a student's q: plain mathematics, each with its gradient.

All take log-probabilities over the same classes, which may be buckets of classes, and none weighs or averages.
The gradient is that with respect to the logits z of q = softmax(z), in closed form. Where g = dD/dq, it is
q * (g - sum(q * g)). So a loss can be differentiated chunk by chunk without a graph over a vocabulary.
"""

import math
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from pydantic import BeforeValidator, Field
from torch import Tensor

from potstill.settings import Settings


def at_least_float32(logits: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch classes"]:
    """Half-precision logits to float32, so that a sum over classes keeps its digits; float64 stays."""
    return logits if logits.dtype == torch.float64 else logits.float()


def kl_divergence(
    p_logits: Float[Tensor, "*batch classes"],
    q_logits: Float[Tensor, "*batch classes"],
    *,
    temperature: float,
) -> Float[Tensor, "*batch"]:
    """KL(p || q) in nats for each position, both softened: p = softmax(p_logits / T), q likewise."""
    log_p = torch.log_softmax(at_least_float32(p_logits) / temperature, dim=-1)
    log_q = torch.log_softmax(at_least_float32(q_logits) / temperature, dim=-1)
    return ForwardKL().value(log_p, log_q)


@runtime_checkable
class Divergence(Protocol):
    """A divergence for each position, and its gradient with respect to the student's logits."""

    @property
    def shrinks_as_inverse_square(self) -> bool:
        """Whether it shrinks as 1 / T^2 when both sides are softened, so that T^2 restores its scale."""
        ...

    def value(
        self, log_p: Float[Tensor, "*batch classes"], log_q: Float[Tensor, "*batch classes"]
    ) -> Float[Tensor, "*batch"]: ...

    def gradient(
        self, log_p: Float[Tensor, "*batch classes"], log_q: Float[Tensor, "*batch classes"]
    ) -> Float[Tensor, "*batch classes"]: ...


@runtime_checkable
class GaussianDivergence(Divergence, Protocol):
    """A divergence that has a closed form between two Gaussians of unit variance."""

    def between_means(self, p: Float[Tensor, "*batch"], q: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]: ...


def temperature_scale(divergence: Divergence, temperature: Any) -> Any:
    """T^2, which keeps soft and hard gradients on one scale when T changes; 1 where that does not hold."""
    return temperature**2 if divergence.shrinks_as_inverse_square else temperature**0


class _InverseSquare(Settings):
    @property
    def shrinks_as_inverse_square(self) -> bool:
        return True


class ForwardKL(_InverseSquare):
    """KL(p || q): the student covers all that the teacher gives mass to (Hinton 2015, arXiv:1503.02531)."""

    kind: Literal["forward_kl"] = "forward_kl"

    def value(
        self, log_p: Float[Tensor, "*batch classes"], log_q: Float[Tensor, "*batch classes"]
    ) -> Float[Tensor, "*batch"]:
        return (log_p.exp() * (log_p - log_q)).sum(dim=-1)

    def gradient(
        self, log_p: Float[Tensor, "*batch classes"], log_q: Float[Tensor, "*batch classes"]
    ) -> Float[Tensor, "*batch classes"]:
        return log_q.exp() - log_p.exp()

    def between_means(self, p: Float[Tensor, "*batch"], q: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        return (p - q).square() / 2


class ReverseKL(_InverseSquare):
    """KL(q || p): the student keeps to what the teacher finds likely (MiniLLM, arXiv:2306.08543)."""

    kind: Literal["reverse_kl"] = "reverse_kl"

    def value(
        self, log_p: Float[Tensor, "*batch classes"], log_q: Float[Tensor, "*batch classes"]
    ) -> Float[Tensor, "*batch"]:
        return (log_q.exp() * (log_q - log_p)).sum(dim=-1)

    def gradient(
        self, log_p: Float[Tensor, "*batch classes"], log_q: Float[Tensor, "*batch classes"]
    ) -> Float[Tensor, "*batch classes"]:
        return _through_softmax(log_q - log_p, log_q)

    def between_means(self, p: Float[Tensor, "*batch"], q: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        # Of equal variances neither direction is another.
        return (p - q).square() / 2


class GeneralisedJSD(_InverseSquare):
    """(beta KL(p || m) + (1 - beta) KL(q || m)) / (beta (1 - beta)), with m = beta p + (1 - beta) q.

    The mixture is that of GKD (arXiv:2306.13649, equation 1). The division makes beta continuous: without it the
    divergence falls to zero on the way to both ends, and is KL(p || q) or KL(q || p) only exactly there.
    """

    kind: Literal["generalised_jsd"] = "generalised_jsd"
    beta: float = Field(default=0.5, ge=0, le=1)
    """0 is the forward KL, 1 the reverse KL."""

    def value(
        self, log_p: Float[Tensor, "*batch classes"], log_q: Float[Tensor, "*batch classes"]
    ) -> Float[Tensor, "*batch"]:
        if self.beta in (0.0, 1.0):
            return self._end().value(log_p, log_q)
        log_m = _log_mixture(log_p, log_q, self.beta)
        from_p = log_p.exp() * (log_p - log_m) / (1 - self.beta)
        from_q = log_q.exp() * (log_q - log_m) / self.beta
        return (from_p + from_q).sum(dim=-1)

    def gradient(
        self, log_p: Float[Tensor, "*batch classes"], log_q: Float[Tensor, "*batch classes"]
    ) -> Float[Tensor, "*batch classes"]:
        if self.beta in (0.0, 1.0):
            return self._end().gradient(log_p, log_q)
        return _through_softmax((log_q - _log_mixture(log_p, log_q, self.beta)) / self.beta, log_q)

    def _end(self) -> "ForwardKL | ReverseKL":
        return ForwardKL() if self.beta == 0 else ReverseKL()


class SkewKL(_InverseSquare):
    """KL(p || skew p + (1 - skew) q), or with `reverse` KL(q || skew q + (1 - skew) p) (DistiLLM, arXiv:2402.03898).

    Bounded where the second distribution all but misses what the first one gives mass to.
    """

    kind: Literal["skew_kl"] = "skew_kl"
    skew: float = Field(default=0.1, ge=0, lt=1)
    """0 is the plain KL; 0.1 is the paper's choice."""
    reverse: bool = False

    def value(
        self, log_p: Float[Tensor, "*batch classes"], log_q: Float[Tensor, "*batch classes"]
    ) -> Float[Tensor, "*batch"]:
        first, second = (log_q, log_p) if self.reverse else (log_p, log_q)
        return (first.exp() * (first - _log_mixture(first, second, self.skew))).sum(dim=-1)

    def gradient(
        self, log_p: Float[Tensor, "*batch classes"], log_q: Float[Tensor, "*batch classes"]
    ) -> Float[Tensor, "*batch classes"]:
        if self.reverse:
            log_m = _log_mixture(log_q, log_p, self.skew)
            return _through_softmax(log_q - log_m - self.skew * (log_q - log_m).exp(), log_q)
        log_m = _log_mixture(log_p, log_q, self.skew)
        # dD/dq = -(1 - skew) p / m; times q before the exponential, since p / m alone can overflow.
        pulled = (1 - self.skew) * (log_p + log_q - log_m).exp()
        return log_q.exp() * pulled.sum(dim=-1, keepdim=True) - pulled


class TotalVariation(Settings):
    """sum(|p - q|) / 2, between 0 and 1; never times T^2, since it shrinks as 1 / T only."""

    kind: Literal["total_variation"] = "total_variation"

    @property
    def shrinks_as_inverse_square(self) -> bool:
        return False

    def value(
        self, log_p: Float[Tensor, "*batch classes"], log_q: Float[Tensor, "*batch classes"]
    ) -> Float[Tensor, "*batch"]:
        return 0.5 * (log_p.exp() - log_q.exp()).abs().sum(dim=-1)

    def gradient(
        self, log_p: Float[Tensor, "*batch classes"], log_q: Float[Tensor, "*batch classes"]
    ) -> Float[Tensor, "*batch classes"]:
        difference = log_q - log_p
        # Two equal numbers summed in another order differ by last bits, and have no side.
        apart = difference.abs() > 64 * torch.finfo(difference.dtype).eps
        return _through_softmax(0.5 * difference.sign() * apart, log_q)


AnyDivergence = Annotated[ForwardKL | ReverseKL | GeneralisedJSD | SkewKL | TotalVariation, Field(discriminator="kind")]


def _from_name(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


NamedDivergence = Annotated[AnyDivergence, BeforeValidator(_from_name, json_schema_input_type=str | AnyDivergence)]
"""A divergence, or its name for one with its default settings."""


def _log_mixture(
    log_a: Float[Tensor, "*batch classes"], log_b: Float[Tensor, "*batch classes"], share: float
) -> Float[Tensor, "*batch classes"]:
    """log(share a + (1 - share) b)."""
    if share == 0:
        return log_b
    return torch.logaddexp(log_a + math.log(share), log_b + math.log1p(-share))


def _through_softmax(
    by_q: Float[Tensor, "*batch classes"], log_q: Float[Tensor, "*batch classes"]
) -> Float[Tensor, "*batch classes"]:
    """The gradient by the logits from that by the probabilities."""
    q = log_q.exp()
    return q * (by_q - (q * by_q).sum(dim=-1, keepdim=True))
