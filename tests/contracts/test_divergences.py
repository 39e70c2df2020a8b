"""Contracts that every divergence keeps: value and closed gradient, its ends, its scale."""

import math
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from potstill.divergences import (
    AnyDivergence,
    Divergence,
    ForwardKL,
    GeneralisedJSD,
    NamedDivergence,
    ReverseKL,
    SkewKL,
    temperature_scale,
)
from tests.contracts.reference import DIVERGENCES, FAST, Case, cases, naive_divergence, naive_log_softmax

EACH = [pytest.param(each, id=f"{each.kind}-{number}") for number, each in enumerate(DIVERGENCES)]


def softened(logits: Any, temperature: float = 1.0) -> torch.Tensor:
    return torch.log_softmax(torch.tensor(logits) / temperature, dim=-1)


def test_every_divergence_is_under_contract_and_can_be_named() -> None:
    listed = {member.model_fields["kind"].default for member in get_args(get_args(AnyDivergence)[0])}
    assert listed == {each.kind for each in DIVERGENCES}
    for kind in listed:
        assert TypeAdapter(NamedDivergence).validate_python(kind).kind == kind
    with pytest.raises(ValidationError, match="forward_kl"):
        TypeAdapter(NamedDivergence).validate_python("forward")


@pytest.mark.parametrize("divergence", EACH)
@FAST
@given(case=cases())
def test_value_and_closed_gradient_agree_with_the_definition(divergence: Divergence, case: Case) -> None:
    log_p, log_q = softened(case.teacher), softened(case.student)
    value, gradient = divergence.value(log_p, log_q), divergence.gradient(log_p, log_q)
    for row in range(len(case.mask)):
        plain = [complex(logit) for logit in case.student[row]]
        naive_p = naive_log_softmax(list(case.teacher[row]), 1.0)
        expected = naive_divergence(divergence, naive_p, naive_log_softmax(plain, 1.0)).real
        assert value[row].item() == pytest.approx(expected, rel=1e-10, abs=1e-10)
        for column in range(len(plain)):
            stepped = [logit + (1e-30j if column == i else 0) for i, logit in enumerate(plain)]
            slope = naive_divergence(divergence, naive_p, naive_log_softmax(stepped, 1.0)).imag / 1e-30
            assert gradient[row, column].item() == pytest.approx(slope, rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("divergence", EACH)
@FAST
@given(case=cases(least=2))
def test_it_is_zero_with_zero_gradient_at_equality_and_positive_elsewhere(divergence: Divergence, case: Case) -> None:
    log_p = softened(case.teacher)
    assert divergence.value(log_p, log_p).abs().max() <= 1e-14
    assert divergence.gradient(log_p, log_p).abs().max() <= 1e-15
    assert divergence.value(log_p, log_p.roll(1, dims=0)).min() > 0


@pytest.mark.parametrize("divergence", EACH)
@FAST
@given(case=cases())
def test_a_gradient_adds_to_zero_since_a_constant_moves_nothing(divergence: Divergence, case: Case) -> None:
    gradient = divergence.gradient(softened(case.teacher), softened(case.student))
    assert gradient.sum(dim=-1).abs().max() <= 1e-14


@pytest.mark.parametrize("divergence", EACH)
def test_its_gradient_keeps_its_magnitude_as_the_temperature_grows(divergence: Divergence) -> None:
    generator = np.random.default_rng(0)
    student, teacher = generator.normal(size=(2, 4, 6))

    def scaled(temperature: float) -> float:
        slope = divergence.gradient(softened(teacher, temperature), softened(student, temperature))
        factor = temperature_scale(divergence, temperature)
        # Total variation falls as 1 / T only, which is left as it is.
        missing = 1 if divergence.shrinks_as_inverse_square else temperature
        return (slope.norm() * factor / temperature * missing).item()

    assert scaled(1000.0) == pytest.approx(scaled(100.0), rel=0.05)
    assert scaled(100.0) > 0.1 * scaled(4.0)


@FAST
@given(case=cases(), beta=st.sampled_from([1e-4, 1e-3, 1 - 1e-4]))
def test_generalised_jsd_meets_the_pure_divergences_at_its_ends(case: Case, beta: float) -> None:
    log_p, log_q = softened(case.teacher), softened(case.student)
    end = ForwardKL() if beta < 0.5 else ReverseKL()
    near, distance = GeneralisedJSD(beta=beta), min(beta, 1 - beta)
    # To first order in the distance from the end, by odds as large as these cases have.
    most = (log_p - log_q).abs().exp().amax(dim=-1)
    allowed = distance * (1 + most) ** 2
    assert ((near.value(log_p, log_q) - end.value(log_p, log_q)).abs() <= allowed).all()
    assert ((near.gradient(log_p, log_q) - end.gradient(log_p, log_q)).abs().amax(dim=-1) <= allowed).all()


@FAST
@given(case=cases())
def test_skew_kl_without_skew_is_the_plain_divergence(case: Case) -> None:
    log_p, log_q = softened(case.teacher), softened(case.student)
    for skewed, plain in ((SkewKL(skew=0.0), ForwardKL()), (SkewKL(skew=0.0, reverse=True), ReverseKL())):
        assert torch.equal(skewed.value(log_p, log_q), plain.value(log_p, log_q))
        torch.testing.assert_close(skewed.gradient(log_p, log_q), plain.gradient(log_p, log_q))


@pytest.mark.parametrize("divergence", EACH)
def test_no_divergence_overflows_where_one_side_is_certain(divergence: Divergence) -> None:
    sure = torch.log_softmax(torch.tensor([[200.0, 0.0, 0.0], [0.0, 200.0, 0.0]]), dim=-1)
    for log_p, log_q in ((sure, sure.flip(0)), (sure, torch.full((2, 3), math.log(1 / 3)))):
        assert divergence.value(log_p, log_q).isfinite().all()
        assert divergence.gradient(log_p, log_q).isfinite().all()
