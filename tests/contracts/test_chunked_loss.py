"""The chunked core against plain arithmetic: every form of teacher, every divergence, every kind of head."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from potstill.divergences import ForwardKL, ReverseKL
from potstill.losses import HardLabels, MixedLoss, SoftTargets
from potstill.losses.chunked import Loss, chunked_loss
from potstill.losses.kernels import Kernels
from potstill.losses.terms import HardTerm, SoftTerm, Term
from potstill.schedules import Constant
from potstill.signals import IGNORE_INDEX, Batch, Signals
from potstill.targets import Head, HiddenTargets, LogitTargets, Mass, SampledTargets, Target, TopKTargets
from tests.contracts.reference import DIVERGENCES, naive_divergence, naive_log_softmax, naive_scale

PLAIN = Kernels(compiled=False)
FEW = settings(max_examples=6, deadline=None, derandomize=True)
GRID = (1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Setting:
    """Float64 tensors of a small problem; `vocabulary` tokens, more than the widest head names."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    scale: float
    soft_cap: float | None
    teacher: Tensor
    labels: Tensor
    seed: int

    def head(self) -> Head:
        return Head(self.weight, self.bias, self.scale, self.soft_cap)


@st.composite
def problems(draw: st.DrawFn, *, vocabulary: int = 9) -> Setting:
    seed = draw(st.integers(0, 2**20))
    generator = torch.Generator().manual_seed(seed)
    positions, width = draw(st.integers(1, 6)), draw(st.integers(1, 4))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    labels = torch.randint(0, vocabulary, (positions,), generator=generator)
    unlabelled = torch.rand(positions, generator=generator) < 0.3
    return Setting(
        hidden=normal(positions, width),
        weight=normal(vocabulary, width),
        bias=normal(vocabulary) if draw(st.booleans()) else None,
        scale=draw(st.sampled_from([1.0, 0.5])),
        soft_cap=draw(st.sampled_from([None, 3.0])),
        teacher=normal(positions, vocabulary) * 2,
        labels=labels.masked_fill(unlabelled, IGNORE_INDEX),
        seed=seed,
    )


def exact_mass(logits: Tensor, k: int, temperatures: Sequence[float] = GRID) -> Mass:
    """The k likeliest tokens in random order, and the mass of the others at each temperature."""
    ids = logits.topk(k, dim=1).indices.flip(1)
    tails = [
        torch.softmax(logits / temperature, dim=1).scatter(1, ids, 0.0).sum(dim=1).log() for temperature in temperatures
    ]
    return Mass(ids, logits.gather(1, ids) - 5.0, torch.stack(tails, dim=1), tuple(temperatures), logits.shape[1])


def run(problem: Setting, target: Target | None, terms: Sequence[Term], **how: Any) -> tuple[Loss, list[Tensor]]:
    dtype = how.pop("dtype", torch.float64)
    leaves = [problem.hidden, problem.weight, *([] if problem.bias is None else [problem.bias])]
    leaves = [leaf.to(dtype, copy=True).requires_grad_() for leaf in leaves]
    head = replace(problem.head(), weight=leaves[1], bias=leaves[2] if len(leaves) > 2 else None)
    found = chunked_loss(leaves[0], head, problem.labels, target, terms, kernels=PLAIN, **how)
    return found, list(torch.autograd.grad(found.total, leaves))


def student_logits(problem: Setting) -> Tensor:
    product = problem.hidden @ problem.weight.T
    logits = (product if problem.bias is None else product + problem.bias) * problem.scale
    return logits if problem.soft_cap is None else torch.tanh(logits / problem.soft_cap) * problem.soft_cap


@dataclass(frozen=True)
class Answer:
    """What a teacher says at one position, for the reference: probabilities over classes, and what the classes are."""

    log_p: list[complex]
    members: list[list[int]]


def answer(target: Target | None, logits: Tensor, row: int, temperature: float) -> Answer:
    vocabulary = logits.shape[1]
    log_p = naive_log_softmax(logits[row].tolist(), temperature)
    if not isinstance(target, TopKTargets):
        return Answer(log_p, [[token] for token in range(vocabulary)])
    ids = target.mass.ids[row].tolist()
    rest = [token for token in range(vocabulary) if token not in ids]
    members = [[token] for token in ids] + ([rest] if rest else [])
    return Answer([_log_sum([log_p[token] for token in each]) for each in members], members)


def _log_sum(values: Sequence[complex]) -> complex:
    return np.log(sum(np.exp(np.array(values, dtype=complex))))


def naive(problem: Setting, target: Target | None, terms: Sequence[Term]) -> tuple[list[float], list[Tensor]]:
    """The sum of each term, and the gradients of the weighted sum, by loops and complex steps."""
    logits = student_logits(problem)
    by_logits = torch.zeros_like(logits)
    sums = [0.0] * len(terms)

    def value(term: Term, row: int, student: Sequence[complex]) -> complex:
        label = int(problem.labels[row])
        if isinstance(term, HardTerm):
            if label == IGNORE_INDEX:
                return 0j
            log_q = naive_log_softmax(student, 1.0)
            return -(1 - term.label_smoothing) * log_q[label] - term.label_smoothing * sum(log_q) / len(log_q)
        said = answer(target, problem.teacher, row, term.temperature)
        log_q = naive_log_softmax(student, term.temperature)
        log_q = [_log_sum([log_q[token] for token in each]) for each in said.members]
        return naive_scale(term.divergence, term.temperature) * naive_divergence(term.divergence, said.log_p, log_q)

    for (number, term), row in itertools.product(enumerate(terms), range(len(logits))):
        plain = [complex(each) for each in logits[row].tolist()]
        sums[number] += value(term, row, plain).real
        for column in range(len(plain)):
            stepped = [each + (1e-30j if column == i else 0) for i, each in enumerate(plain)]
            by_logits[row, column] += term.weight * value(term, row, stepped).imag / 1e-30
    slope = problem.scale
    if problem.soft_cap is not None:
        slope = problem.scale * (1 - (logits / problem.soft_cap) ** 2)
    by_product = by_logits * slope
    gradients = [by_product @ problem.weight, by_product.T @ problem.hidden]
    return sums, gradients + ([] if problem.bias is None else [by_product.sum(dim=0)])


def agree(
    found: tuple[Loss, list[Tensor]], expected: tuple[list[float], list[Tensor]], terms: Any, digits: float
) -> None:
    loss, gradients = found
    sums, slopes = expected
    np.testing.assert_allclose(loss.parts.double().numpy(), sums, rtol=digits, atol=digits)
    total = sum(term.weight * each for term, each in zip(terms, sums, strict=True))
    assert loss.total.item() == pytest.approx(total, rel=digits, abs=digits)
    for gradient, slope in zip(gradients, slopes, strict=True):
        np.testing.assert_allclose(gradient.double().numpy(), slope.numpy(), rtol=digits, atol=digits)


HARD = HardTerm("hard_labels", 0.4)
TARGETS = {
    "logits": lambda problem: LogitTargets(problem.teacher),
    # The identity is a head of which the states are the logits.
    "hidden": lambda problem: HiddenTargets(problem.teacher, Head(torch.eye(9, dtype=torch.float64))),
    "top_k": lambda problem: TopKTargets(exact_mass(problem.teacher, 3)),
    "top_all": lambda problem: TopKTargets(exact_mass(problem.teacher, 9)),
}


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda each: each.kind)
@FEW
@given(problem=problems(), temperature=st.sampled_from(GRID), smoothing=st.sampled_from([0.0, 0.2]))
def test_loss_and_every_gradient_agree_with_the_naive_reference(
    divergence: Any, kind: str, problem: Setting, temperature: float, smoothing: float
) -> None:
    target = TARGETS[kind](problem)
    terms = (SoftTerm("soft_targets", divergence, 0.7, temperature), replace(HARD, label_smoothing=smoothing))
    expected = naive(problem, target, terms)
    agree(run(problem, target, terms, rows_at_once=2), expected, terms, 1e-10)
    single = replace(problem, teacher=problem.teacher.float())
    agree(
        run(problem, TARGETS[kind](single) if kind != "hidden" else target, terms, dtype=torch.float32),
        expected,
        terms,
        1e-5,
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@FEW
@given(problem=problems())
def test_hard_labels_alone_need_no_teacher(smoothing: float, problem: Setting) -> None:
    terms = (replace(HARD, label_smoothing=smoothing),)
    agree(run(problem, None, terms, rows_at_once=2), naive(problem, None, terms), terms, 1e-10)


@FEW
@given(problem=problems())
def test_two_soft_terms_at_two_temperatures_add_up(problem: Setting) -> None:
    terms = (
        SoftTerm("soft_targets", ForwardKL(), 0.7, 2.0),
        HARD,
        SoftTerm("second", ReverseKL(), 0.2, 1.0),
    )
    for kind in TARGETS:
        target = TARGETS[kind](problem)
        agree(run(problem, target, terms, rows_at_once=3), naive(problem, target, terms), terms, 1e-10)


@pytest.mark.parametrize("kind", TARGETS)
@FEW
@given(problem=problems(), rows=st.integers(1, 7))
def test_the_size_of_a_chunk_changes_nothing(kind: str, problem: Setting, rows: int) -> None:
    terms = (SoftTerm("soft_targets", ForwardKL(), 0.7, 2.0), HARD)
    whole, slopes = run(problem, TARGETS[kind](problem), terms, rows_at_once=100)
    cut, cut_slopes = run(problem, TARGETS[kind](problem), terms, rows_at_once=rows)
    torch.testing.assert_close(cut.parts, whole.parts, rtol=1e-12, atol=1e-13)
    for cut_slope, slope in zip(cut_slopes, slopes, strict=True):
        torch.testing.assert_close(cut_slope, slope, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda each: each.kind)
@FEW
@given(problem=problems())
def test_a_student_that_is_its_teacher_has_exactly_nothing_to_learn(divergence: Any, problem: Setting) -> None:
    same = replace(problem, teacher=student_logits(problem))
    terms = (SoftTerm("soft_targets", divergence, 1.0, 2.0),)
    for kind in TARGETS:
        found, gradients = run(same, TARGETS[kind](same), terms)
        assert abs(found.total.item()) <= 1e-13
        assert all(gradient.abs().max() <= 1e-13 for gradient in gradients)


@FEW
@given(problem=problems(), temperature=st.sampled_from(GRID), k=st.sampled_from([1, 3, 8]))
def test_rounded_states_with_an_exact_head_have_its_head_and_tail_mass(
    problem: Setting, temperature: float, k: int
) -> None:
    mass = exact_mass(problem.teacher, k)
    noise = torch.randn(problem.teacher.shape, generator=torch.Generator().manual_seed(problem.seed)).double()
    target = HiddenTargets(problem.teacher + noise, Head(torch.eye(9, dtype=torch.float64)), mass)
    stored = torch.softmax(target.logits_at(slice(None), temperature, PLAIN.log_sum_exp) / temperature, dim=1)
    exact = torch.softmax(problem.teacher / temperature, dim=1)
    torch.testing.assert_close(stored.gather(1, mass.ids), exact.gather(1, mass.ids), rtol=1e-12, atol=1e-15)
    shape = torch.softmax((problem.teacher + noise) / temperature, dim=1).scatter(1, mass.ids, 0.0)
    tail = shape / shape.sum(dim=1, keepdim=True) * exact.scatter(1, mass.ids, 0.0).sum(dim=1, keepdim=True)
    torch.testing.assert_close(stored.scatter(1, mass.ids, 0.0), tail, rtol=1e-10, atol=1e-15)


@FEW
@given(problem=problems())
def test_samples_with_the_weights_of_the_distribution_give_its_kl(problem: Setting) -> None:
    p = torch.softmax(problem.teacher, dim=1)
    everything = torch.arange(9).repeat(len(p), 1)
    target = SampledTargets(everything, p, -(p * p.log()).sum(dim=1))
    terms = (SoftTerm("soft_targets", ForwardKL(), 0.7, 1.0), HARD)
    agree(
        run(problem, target, terms, rows_at_once=2), naive(problem, LogitTargets(problem.teacher), terms), terms, 1e-10
    )


def test_what_a_teacher_cannot_serve_is_refused() -> None:
    problem = _fixed()
    soft = SoftTerm("soft_targets", ForwardKL(), 1.0, 2.0)
    with pytest.raises(ValueError, match="no teacher was given"):
        run(problem, None, (soft,))
    with pytest.raises(ValueError, match="speaks of 1 positions, the student of 2"):
        run(problem, LogitTargets(problem.teacher[:1]), (soft,))
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        run(problem, LogitTargets(problem.teacher), (replace(soft, temperature=0.0),))
    with pytest.raises(ValueError, match=r"temperature 8 is outside of the stored grid 1, 2, 4"):
        run(problem, TopKTargets(exact_mass(problem.teacher, 3)), (replace(soft, temperature=8.0),))
    sampled = SampledTargets(torch.zeros(2, 1, dtype=torch.long), torch.ones(2, 1), torch.zeros(2))
    with pytest.raises(ValueError, match="sampled teacher serves forward_kl at temperature 1 alone"):
        run(problem, sampled, (soft,))


def _fixed() -> Setting:
    generator = torch.Generator().manual_seed(0)
    hidden, weight, teacher = (
        torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((2, 3), (9, 3), (2, 9))
    )
    return Setting(hidden, weight, None, 1.0, None, teacher, torch.tensor([0, 1]), 0)


@pytest.mark.parametrize("temperature", [1.05, 1.4, 1.9, 2.5, 3.7])
@FEW
@given(problem=problems(), k=st.sampled_from([1, 3, 8]))
def test_a_tail_is_known_between_the_temperatures_of_the_grid(temperature: float, problem: Setting, k: int) -> None:
    coarse = exact_mass(problem.teacher, k, (1.0, 1.5, 2.0, 3.0, 4.0)).at(slice(None), temperature)
    exact = exact_mass(problem.teacher, k, (temperature,)).at(slice(None), temperature)
    torch.testing.assert_close(coarse.log_tail, exact.log_tail, rtol=0, atol=0.01)
    total = coarse.log_head.exp().sum(dim=1) + coarse.log_tail.exp()
    torch.testing.assert_close(total, torch.ones_like(total))


def test_the_gradients_can_be_taken_once() -> None:
    problem = _fixed()
    hidden = problem.hidden.requires_grad_()
    found = chunked_loss(hidden, problem.head(), problem.labels, None, (HARD,), kernels=PLAIN)
    found.total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="differentiated once"):
        found.total.backward()


def test_a_frozen_head_gets_no_gradient_and_costs_none() -> None:
    problem = _fixed()
    hidden = problem.hidden.requires_grad_()
    chunked_loss(hidden, problem.head(), problem.labels, None, (HARD,), kernels=PLAIN).total.backward()
    assert problem.weight.grad is None and hidden.grad is not None and hidden.grad.abs().max() > 0


def test_under_autocast_products_are_bfloat16_and_sums_float32() -> None:
    problem = _fixed()
    leaves = [problem.hidden.float().requires_grad_(), problem.weight.float().requires_grad_()]
    terms = (SoftTerm("soft_targets", ForwardKL(), 0.7, 2.0), HARD)

    def loss() -> Loss:
        return chunked_loss(
            leaves[0], Head(leaves[1]), problem.labels, LogitTargets(problem.teacher.float()), terms, kernels=PLAIN
        )

    exact = torch.autograd.grad(loss().total, leaves)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = loss()
    assert half.total.dtype == half.parts.dtype == torch.float32
    rounded = torch.autograd.grad(half.total, leaves)
    for near, far in zip(rounded, exact, strict=True):
        assert near.dtype == torch.float32 and not torch.equal(near, far)
        torch.testing.assert_close(near, far, rtol=0.05, atol=0.03)


def test_the_gradient_of_a_head_in_half_precision_is_summed_in_float32() -> None:
    """In its own type, a sum that is 256 times as large as what comes to it stays as it is."""
    hidden = torch.ones(2000, 2, dtype=torch.bfloat16)
    labels = torch.zeros(2000, dtype=torch.int64)

    def by_weight(dtype: torch.dtype) -> Tensor:
        weight = torch.zeros(4, 2, dtype=dtype, requires_grad=True)
        loss = chunked_loss(hidden.to(dtype), Head(weight), labels, None, (HARD,), kernels=PLAIN, rows_at_once=1)
        (found,) = torch.autograd.grad(loss.total, weight)
        return found

    torch.testing.assert_close(by_weight(torch.bfloat16).double(), by_weight(torch.float64), rtol=0.01, atol=0)


@FEW
@given(problem=problems(), seed=st.integers(0, 99))
def test_masked_positions_never_reach_the_core(problem: Setting, seed: int) -> None:
    """The driver on hidden states = the driver on logits, with garbage where the mask is false."""
    generator = torch.Generator().manual_seed(seed)
    count = len(problem.labels)
    mask = torch.rand(2 * count, generator=generator) < 0.5
    places = mask.nonzero().squeeze(1)[:count]
    mask = torch.zeros_like(mask).index_fill(0, places, True)
    kept = len(places)

    def scattered(rows: Tensor, garbage: float) -> Tensor:
        whole = rows.new_full((len(mask), *rows.shape[1:]), garbage)
        return whole.index_copy(0, places, rows[:kept])

    labels = scattered(problem.labels, 3)
    batch = Batch(("row",), {}, labels[None], mask[None])
    losses = [SoftTargets(weight=Constant(value=0.7)).build(), HardLabels(weight=Constant(value=0.3)).build()]
    hidden = scattered(problem.hidden, math.nan)[None].requires_grad_()
    target = LogitTargets(problem.teacher[:kept])
    through_core = MixedLoss(losses)(
        Signals(hidden=hidden, head=problem.head()), Signals(target=target), batch, progress=0.5
    )
    (gradient,) = torch.autograd.grad(through_core.total, hidden)
    logits = scattered(student_logits(problem), math.nan)[None]
    teacher = scattered(problem.teacher, math.nan)[None]
    by_autograd = MixedLoss(losses)(Signals(logits=logits), Signals(logits=teacher), batch, progress=0.5)
    assert through_core.total.item() == pytest.approx(by_autograd.total.item(), rel=1e-10, abs=1e-12)
    for name, part in by_autograd.parts.items():
        assert through_core.parts[name].item() == pytest.approx(part.item(), rel=1e-10, abs=1e-12)
    assert not gradient[0, ~mask].any()
