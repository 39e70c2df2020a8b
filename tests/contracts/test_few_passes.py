"""The chunked core as a CUDA device runs it, on the CPU: with fewer passes over the logits, to the same result."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from potstill.divergences import ForwardKL, ReverseKL
from potstill.losses import chunked, kernels
from potstill.losses.chunked import chunked_loss, logit_terms
from potstill.losses.kernels import row_log_sum_exp, softened
from potstill.losses.terms import HardTerm, SoftTerm, Term
from potstill.products import bias_in_columns
from potstill.targets import Head, HiddenTargets, SampledTargets, Target, logits_and_sums
from tests.contracts.reference import DIVERGENCES
from tests.contracts.test_chunked_loss import (
    FEW,
    GRID,
    HARD,
    PLAIN,
    TARGETS,
    Setting,
    agree,
    exact_mass,
    naive,
    problems,
    run,
)


def with_head(problem: Setting) -> Target:
    """The states have the shape of the tail, up to a constant, and of the head something else."""
    mass = exact_mass(problem.teacher, 3)
    states = problem.teacher.scatter(1, mass.ids, 7.0) + 3.0
    return HiddenTargets(states, Head(torch.eye(9, dtype=torch.float64)), mass)


def with_nothing_else(problem: Setting) -> Target:
    return HiddenTargets(problem.teacher, Head(torch.eye(9, dtype=torch.float64)), exact_mass(problem.teacher, 9))


def samples(problem: Setting) -> Target:
    p = torch.softmax(problem.teacher, dim=1)
    return SampledTargets(torch.arange(9).repeat(len(p), 1), p, -(p * p.log()).sum(dim=1))


KINDS = TARGETS | {"exact head": with_head, "all in the head": with_nothing_else}


@contextmanager
def few_passes() -> Iterator[None]:
    """Passes as on a CUDA device, and the gradient in a tensor of its own whatever its type."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "few_passes", lambda device: True)
        patch.setattr(chunked, "few_passes", lambda device: True)
        patch.setattr(chunked, "_is_narrower", lambda product, logits: True)
        yield


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda each: each.kind)
@FEW
@given(
    problem=problems(), temperature=st.sampled_from(GRID), smoothing=st.sampled_from([0.0, 0.2]), plain=st.booleans()
)
def test_loss_and_gradients_agree_with_the_naive_reference(
    divergence: Any, kind: str, problem: Setting, temperature: float, smoothing: float, plain: bool
) -> None:
    if plain:
        problem = replace(problem, bias=None, scale=1.0, soft_cap=None)
    target = KINDS[kind](problem)
    terms = (SoftTerm("soft_targets", divergence, 0.7, temperature), replace(HARD, label_smoothing=smoothing))
    with few_passes():
        agree(run(problem, target, terms, rows_at_once=2), naive(problem, target, terms), terms, 1e-10)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@FEW
@given(problem=problems())
def test_hard_labels_alone(smoothing: float, problem: Setting) -> None:
    problem = replace(problem, bias=None, scale=1.0, soft_cap=None)
    terms = (replace(HARD, label_smoothing=smoothing), HardTerm("second", 0.3))
    with few_passes():
        agree(run(problem, None, terms, rows_at_once=2), naive(problem, None, terms), terms, 1e-10)


def mixes(problem: Setting) -> Iterator[tuple[Target | None, tuple[Term, ...]]]:
    soft = SoftTerm("soft_targets", ForwardKL(), 0.7, 2.0)
    smoothed = replace(HARD, label_smoothing=0.1)
    yield None, (HARD,)
    yield None, (smoothed,)
    for kind in KINDS:
        yield KINDS[kind](problem), (soft,)
        yield KINDS[kind](problem), (soft, smoothed)
        yield KINDS[kind](problem), (soft, HARD, SoftTerm("second", ReverseKL(), 0.2, 1.0))
    yield samples(problem), (replace(soft, temperature=1.0), HARD)


@FEW
@given(problem=problems())
def test_a_gradient_in_half_precision_is_rounded_once(problem: Setting) -> None:
    for target, terms in mixes(problem):
        logits = problem.teacher.flip(0).float()
        exact = logits.clone()
        how: dict[str, Any] = {"rows": slice(None), "terms": terms, "kernels": PLAIN}
        sums = logit_terms(exact, problem.labels, target, **how)
        narrow = torch.full_like(logits, torch.nan, dtype=torch.bfloat16)
        with few_passes():
            found = logit_terms(logits, problem.labels, target, **how, out=narrow)
        torch.testing.assert_close(found, sums, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(narrow.float(), exact, rtol=2**-8, atol=1e-6)


def test_no_second_chunk_is_held_where_the_gradient_is_no_narrower(monkeypatch: pytest.MonkeyPatch) -> None:
    outs = []
    terms = chunked.logit_terms
    monkeypatch.setattr(chunked, "few_passes", lambda device: True)
    monkeypatch.setattr(chunked, "logit_terms", lambda *given, **how: outs.append(how["out"]) or terms(*given, **how))
    hidden, weight = torch.randn(3, 4), torch.randn(9, 4)
    for dtype in (torch.float32, torch.bfloat16):
        leaf = hidden.to(dtype).requires_grad_()
        chunked_loss(leaf, Head(weight.to(dtype)), torch.arange(3), None, (HARD,), kernels=PLAIN)
    assert outs[0] is None and outs[1].dtype == torch.bfloat16


@FEW
@given(problem=problems(), temperature=st.sampled_from(GRID))
def test_the_sum_beside_an_exact_head_is_that_of_its_logits(problem: Setting, temperature: float) -> None:
    for target in (with_head(problem), with_nothing_else(problem)):
        assert isinstance(target, HiddenTargets)
        logits, log_sum = logits_and_sums(target, slice(None), temperature, PLAIN.log_sum_exp)
        assert log_sum is not None
        torch.testing.assert_close(log_sum, torch.logsumexp(logits / temperature, dim=1), rtol=1e-10, atol=1e-10)
    assert logits_and_sums(TARGETS["logits"](problem), slice(None), 1.0, PLAIN.log_sum_exp)[1] is None


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_what_is_written_for_the_compiler_is_the_softmax(monkeypatch: pytest.MonkeyPatch, temperature: float) -> None:
    monkeypatch.setattr(kernels, "few_passes", lambda device: True)
    logits = torch.randn(5, 40, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 90
    logits[:, 7] = -torch.inf
    logits[2] = -torch.inf
    logits[2, 5] = 3.0
    expected = torch.log_softmax(logits / temperature, dim=1), torch.logsumexp(logits / temperature, dim=1)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    at = torch.tensor(temperature, dtype=torch.float64)
    torch.testing.assert_close(softened(logits, at), expected[0])
    found = row_log_sum_exp(logits, torch.stack([at, at]))
    torch.testing.assert_close(found, expected[1][:, None].expand(-1, 2))
    # Of a row where nothing is left there is nothing.
    assert row_log_sum_exp(torch.full((2, 9), -torch.inf), torch.ones(1)).tolist() == [[-torch.inf]] * 2


@pytest.mark.parametrize("width", [4, 5, 13, 64])
def test_a_bias_in_columns_has_all_its_digits(width: int) -> None:
    generator = torch.Generator().manual_seed(width)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    inputs, weight, bias = drawn(6, width).bfloat16(), drawn(30, width).bfloat16(), drawn(30) * 10
    wide, wider = bias_in_columns(inputs, weight, bias)
    assert wide.dtype == wider.dtype == torch.bfloat16 and wide.shape[1] == wider.shape[1]
    assert wider.shape[1] % 8 == 0 and wider.shape[1] < width + 11
    torch.testing.assert_close(
        wide.double() @ wider.double().T, inputs.double() @ weight.double().T + bias.double(), rtol=1e-6, atol=1e-6
    )
