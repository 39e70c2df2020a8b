"""A teacher's distributions of the next token, in the forms in which they are known, a chunk of positions at a time.

A `FullTarget` gives a number for every token of the vocabulary, a `SparseTarget` for k tokens and the rest together,
`SampledTargets` an unbiased sample. Positions are those that count, in the order of the batch. No method holds more
of the vocabulary than the positions that it was asked for.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from potstill.chunk_sizes import chunk_rows
from potstill.divergences import at_least_float32
from potstill.products import bias_in_columns, wide_product

FEW_COMPONENTS = 256
"""A width up to which a head's weight is small beside a chunk of its logits."""
LEAST_LOG_MASS = -80.0
"""Log of a mass that counts as none: it keeps differences of logarithms finite."""

RowLogSumExp = Callable[[Float[Tensor, "positions vocabulary"], float], Float[Tensor, "positions"]]


def plain_log_sum_exp(logits: Tensor, temperature: float) -> Tensor:
    """The log of the sum of exp(x / T) over each row, without kernels."""
    return torch.logsumexp(logits / temperature, dim=-1)


@dataclass(frozen=True)
class Head:
    """The map from last hidden states to logits: `cap(scale * (h W^T + b))` with `cap(z) = c tanh(z / c)`."""

    weight: Float[Tensor, "vocabulary width"]
    bias: Float[Tensor, "vocabulary"] | None = None
    scale: float = 1.0
    soft_cap: float | None = None

    def logits(self, hidden: Float[Tensor, "positions width"]) -> Float[Tensor, "positions vocabulary"]:
        """The logits in float32 at least, from products of the hidden states' type, or of the one of autocast."""
        kind, dtype = hidden.device.type, hidden.dtype
        if torch.is_autocast_enabled(kind) and dtype != torch.float64:
            dtype = torch.get_autocast_dtype(kind)
        elif self.weight.is_cuda and self.weight.dtype.itemsize < 4 and dtype == torch.float32:
            # States of a model of half precision are numbers of its type, whatever type they are in now.
            dtype = self.weight.dtype
        weight = self.weight.to(dtype)
        if dtype.itemsize < 4:
            with torch.autocast(kind, enabled=False):
                product = wide_product(hidden.to(dtype), weight.T)
            return self.activate(product if self.bias is None else product.add_(self.bias))
        bias = None if self.bias is None else self.bias.to(dtype)
        return self.activate(at_least_float32(torch.nn.functional.linear(hidden, weight, bias)))

    def of_first(self, tokens: int | None) -> "Head":
        """The head of the first tokens alone, without a copy of its weight; of all of them where None is given."""
        if tokens is None or tokens == len(self.weight):
            return self
        return replace(self, weight=self.weight[:tokens], bias=None if self.bias is None else self.bias[:tokens])

    def on(self, device: torch.device) -> "Head":
        """The same on a device."""
        return replace(self, weight=self.weight.to(device), bias=None if self.bias is None else self.bias.to(device))

    def with_wide_sums(self) -> "Head":
        """The same, so that the sums of its products stay in float32: a CUDA device keeps them so of half precision;
        elsewhere they would be rounded to the type of the weight, which is copied into float32."""
        if self.weight.is_cuda or self.weight.dtype.itemsize >= 4:
            return self
        return replace(self, weight=self.weight.float(), bias=None if self.bias is None else self.bias.float())

    @property
    def chunk_rows(self) -> int:
        """Positions whose logits are held at a time."""
        return chunk_rows(self.weight.device, len(self.weight))

    def likeliest(self, hidden: Float[Tensor, "positions width"]) -> Int[Tensor, "positions"]:
        """The token with the largest logit at each position; a chunk of the logits is held at a time."""
        chunks = [self.logits(piece).argmax(dim=1) for piece in torch.split(hidden, self.chunk_rows)]
        return torch.cat(chunks)

    def activate(self, product: Float[Tensor, "positions vocabulary"]) -> Float[Tensor, "positions vocabulary"]:
        """Scale and soft cap, on the matrix product."""
        scaled = product if self.scale == 1.0 else product * self.scale
        return scaled if self.soft_cap is None else torch.tanh(scaled / self.soft_cap) * self.soft_cap


@runtime_checkable
class FullTarget(Protocol):
    """A distribution over the whole vocabulary."""

    def __len__(self) -> int: ...

    def with_products_in(self, dtype: torch.dtype) -> "FullTarget":
        """The same, whose matrix products, if it has any, have factors of this type."""
        ...

    def logits_at(
        self, rows: slice, temperature: float, log_sum_exp: RowLogSumExp
    ) -> Float[Tensor, "positions vocabulary"]:
        """Logits x of which softmax(x / temperature) is the distribution softened by `temperature`."""
        ...


@runtime_checkable
class GroupedTarget(FullTarget, Protocol):
    """A distribution over groups of tokens. How a group's mass lies within it is not known, and not taught."""

    def logits_beside(
        self,
        student: Float[Tensor, "positions vocabulary"],
        rows: slice,
        temperature: float,
        log_sum_exp: RowLogSumExp,
    ) -> Float[Tensor, "positions vocabulary"]:
        """As `logits_at`, with the mass of each group spread as it is by the logits `student` of these positions."""
        ...


@dataclass(frozen=True)
class Buckets:
    """The log-probabilities of k tokens, and that of all others together, at one temperature."""

    ids: Int[Tensor, "positions k"]
    log_head: Float[Tensor, "positions k"]
    log_tail: Float[Tensor, "positions"]


@runtime_checkable
class SparseTarget(Protocol):
    """A distribution of which k tokens are known, and the mass of the rest."""

    def __len__(self) -> int: ...

    def buckets_at(self, rows: slice, temperature: float) -> Buckets: ...


@dataclass(frozen=True)
class SampledTargets:
    """k tokens for each position with weights that sum to one, so that E[sum(w * f(id))] = sum(p * f) for each f.

    For temperature 1 and the forward KL alone: any other divergence is not linear in p. `entropy` is that of p.
    """

    ids: Int[Tensor, "positions k"]
    weights: Float[Tensor, "positions k"]
    entropy: Float[Tensor, "positions"]

    def __len__(self) -> int:
        return len(self.ids)


Target = FullTarget | SparseTarget | SampledTargets


@dataclass(frozen=True)
class LogitTargets:
    """All logits, of a model that is asked while the student trains."""

    logits: Float[Tensor, "positions vocabulary"]

    def __len__(self) -> int:
        return len(self.logits)

    def with_products_in(self, dtype: torch.dtype) -> "LogitTargets":
        return self

    def logits_at(
        self, rows: slice, temperature: float, log_sum_exp: RowLogSumExp
    ) -> Float[Tensor, "positions vocabulary"]:
        return at_least_float32(self.logits[rows])


@dataclass(frozen=True)
class MixedTargets:
    """Several distributions mixed in probability space, at each temperature anew.

    Never the mean of their logits: that is a product of distributions, which any one of them can veto. `weights` are
    those of each distribution at each position, and sum to one. They may lie on another device than the logits.
    """

    members: tuple[FullTarget, ...]
    weights: Float[Tensor, "positions members"]

    def __len__(self) -> int:
        return len(self.weights)

    def with_products_in(self, dtype: torch.dtype) -> "MixedTargets":
        return replace(self, members=tuple(member.with_products_in(dtype) for member in self.members))

    def logits_at(
        self, rows: slice, temperature: float, log_sum_exp: RowLogSumExp
    ) -> Float[Tensor, "positions vocabulary"]:
        shares = self.weights[rows].log()
        mixed: Tensor | None = None
        for number, member in enumerate(self.members):
            logits = member.logits_at(rows, temperature, log_sum_exp) / temperature
            part = torch.log_softmax(logits, dim=-1) + shares[:, number, None].to(logits)
            mixed = part if mixed is None else torch.logaddexp(mixed, part)
        assert mixed is not None
        # Logits of which softmax(x / T) is the mixture.
        return mixed * temperature


@dataclass(frozen=True)
class MostConfidentTargets:
    """At each position the distribution of the one whose likeliest answer has the most mass at temperature 1."""

    members: tuple[FullTarget, ...]

    def __len__(self) -> int:
        return len(self.members[0])

    def with_products_in(self, dtype: torch.dtype) -> "MostConfidentTargets":
        return MostConfidentTargets(tuple(member.with_products_in(dtype) for member in self.members))

    def logits_at(
        self, rows: slice, temperature: float, log_sum_exp: RowLogSumExp
    ) -> Float[Tensor, "positions vocabulary"]:
        # Targets may give a buffer that their next answer overwrites.
        plain = [torch.log_softmax(member.logits_at(rows, 1.0, log_sum_exp), dim=-1) for member in self.members]
        chosen = torch.stack([each.amax(dim=-1) for each in plain]).argmax(dim=0)
        result: Tensor | None = None
        for number, member in enumerate(self.members):
            logits = member.logits_at(rows, temperature, log_sum_exp)
            result = logits.clone() if result is None else torch.where((chosen == number)[:, None], logits, result)
        assert result is not None
        return result


@dataclass(frozen=True)
class Mass:
    """The exact head: k tokens with their logits, and the log of the others' mass at each temperature of a grid."""

    ids: Int[Tensor, "positions k"]
    head_logits: Float[Tensor, "positions k"]
    """Up to a constant for each position."""
    log_tails: Float[Tensor, "positions temperatures"]
    temperatures: tuple[float, ...]

    vocabulary: int

    def at(self, rows: slice, temperature: float) -> Buckets:
        """The buckets at a temperature of the grid, or between two of it.

        Raises:
            ValueError: the temperature is outside of the grid.
        """
        log_tail = self._log_tail(rows, temperature).clamp(min=LEAST_LOG_MASS)
        # The head has what the tail leaves, so that all sums to one.
        left = torch.log1p(-log_tail.exp()).clamp(min=LEAST_LOG_MASS)
        shares = torch.log_softmax(self.head_logits[rows] / temperature, dim=-1)
        return Buckets(self.ids[rows], left[:, None] + shares, log_tail)

    def _log_tail(self, rows: slice, temperature: float) -> Float[Tensor, "positions"]:
        for number, known in enumerate(self.temperatures):
            if math.isclose(temperature, known, rel_tol=1e-6):
                return self.log_tails[rows, number]
        if not self.temperatures[0] < temperature < self.temperatures[-1]:
            grid = ", ".join(f"{known:g}" for known in self.temperatures)
            raise ValueError(f"temperature {temperature:g} is outside of the stored grid {grid}")
        # The log of the sum of exp(x / T) over the tail is a smooth function of 1 / T, unlike the mass itself. It is
        # known at the grid, and at 1 / T = 0, where it is the log of the number of tokens. So a polynomial in 1 / T
        # is read between the four nearest of these.
        rate = 1 / temperature
        nodes = sorted([*(1 / known for known in self.temperatures), 0.0], key=lambda node: abs(node - rate))[:4]
        head = self.head_logits[rows]
        tail = torch.zeros_like(self.log_tails[rows, 0])
        for node in nodes:
            weight = math.prod((rate - other) / (node - other) for other in nodes if other != node)
            tail = tail + weight * self._log_sum_of_tail(rows, node)
        return torch.nn.functional.logsigmoid(tail - torch.logsumexp(head * rate, dim=-1))

    def _log_sum_of_tail(self, rows: slice, rate: float) -> Float[Tensor, "positions"]:
        """The log of the sum of exp(x * rate) over the tail, at a rate where it is known."""
        tails = self.log_tails[rows]
        if rate == 0:
            return torch.full_like(tails[:, 0], math.log(max(1, self.vocabulary - self.ids.shape[1])))
        log_tail = tails[:, [1 / known for known in self.temperatures].index(rate)].clamp(min=LEAST_LOG_MASS)
        odds = log_tail - torch.log1p(-log_tail.exp()).clamp(min=LEAST_LOG_MASS)
        return odds + torch.logsumexp(self.head_logits[rows] * rate, dim=-1)


@dataclass(frozen=True)
class TopKTargets:
    """The k likeliest tokens and the mass of the others, as one bucket."""

    mass: Mass

    def __len__(self) -> int:
        return len(self.mass.ids)

    def buckets_at(self, rows: slice, temperature: float) -> Buckets:
        return self.mass.at(rows, temperature)


@dataclass(frozen=True)
class HiddenTargets:
    """The teacher's last hidden states, or r components of them, and the head that makes logits of them.

    With `mass`, which is exact, where the states were rounded or cut to some components: they then give the shape of
    the tail alone. Integer states are codes; their scale is in the head's weight.
    """

    hidden: Float[Tensor, "positions width"] | Int[Tensor, "positions width"]
    head: Head
    mass: Mass | None = None

    def __len__(self) -> int:
        return len(self.hidden)

    def with_products_in(self, dtype: torch.dtype) -> "HiddenTargets":
        # Codes of 8 bits stay exact; finer ones are rounded as autocast rounds a model's own states.
        hidden, weight = self.hidden.to(dtype), self.head.weight.to(dtype)
        bias = self.head.bias
        # Of a wide weight it would copy more than it saves; elsewhere sums are rounded.
        if bias is not None and weight.is_cuda and weight.shape[1] <= FEW_COMPONENTS:
            hidden, weight = bias_in_columns(hidden, weight, bias)
            bias = None
        return replace(self, hidden=hidden, head=replace(self.head, weight=weight, bias=bias))

    def logits_at(
        self, rows: slice, temperature: float, log_sum_exp: RowLogSumExp
    ) -> Float[Tensor, "positions vocabulary"]:
        return self.summed_at(rows, temperature, log_sum_exp)[0]

    def summed_at(
        self, rows: slice, temperature: float, log_sum_exp: RowLogSumExp
    ) -> tuple[Float[Tensor, "positions vocabulary"], Float[Tensor, "positions"] | None]:
        """The same logits, and log(sum(exp(x / T))) of each position, which is known beside an exact head."""
        hidden = self.hidden[rows]
        logits = self.head.logits(hidden if hidden.is_floating_point() else hidden.to(self.head.weight.dtype))
        if self.mass is None:
            return logits, None
        return with_exact_head(logits, self.mass.at(rows, temperature), temperature, log_sum_exp)


def logits_and_sums(
    target: FullTarget, rows: slice, temperature: float, log_sum_exp: RowLogSumExp
) -> tuple[Float[Tensor, "positions vocabulary"], Float[Tensor, "positions"] | None]:
    """The logits of a target, and log(sum(exp(x / T))) of each position where it is known beside them."""
    if isinstance(target, HiddenTargets):
        return target.summed_at(rows, temperature, log_sum_exp)
    return target.logits_at(rows, temperature, log_sum_exp), None


def with_exact_head(
    body: Float[Tensor, "positions vocabulary"], exact: Buckets, temperature: float, log_sum_exp: RowLogSumExp
) -> tuple[Float[Tensor, "positions vocabulary"], Float[Tensor, "positions"]]:
    """The logits `body`, changed in place so that softmax(body / T) has the exact head and the exact mass of the tail,
    and log(sum(exp(body / T))) of them.

    The tail keeps its shape: of two of its tokens, the odds do not change.
    """
    body.scatter_(1, exact.ids, -math.inf)
    tail = log_sum_exp(body, temperature)
    # Without a tail, where the head is the whole vocabulary, there is nothing that the head must fit to.
    level = (tail - exact.log_tail).where(tail > -math.inf, 0.0)
    head = (exact.log_head + level[:, None]) * temperature
    return body.scatter_(1, exact.ids, head.to(body.dtype)), level.to(body.dtype)
