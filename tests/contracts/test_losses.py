"""Contracts that every loss of the union keeps; a loss that is newly listed is tested without a change here."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from potstill.losses import AnyLoss, HardLabels, MixedLoss, SoftTargets, soft_target_kl
from potstill.schedules import Constant, Cosine, Linear
from potstill.signals import IGNORE_INDEX, Batch, Signals
from tests.contracts.reference import (
    FAST,
    LOSSES,
    REFERENCES,
    VARIANTS,
    Case,
    Floats,
    cases,
    evaluate,
    kind_of,
    naive_schedule,
    reference,
    run,
)


@pytest.mark.parametrize("loss", LOSSES, ids=kind_of)
def test_every_listed_loss_has_a_reference_and_defaults(loss: type[Any]) -> None:
    assert kind_of(loss) in REFERENCES
    assert TypeAdapter(AnyLoss).validate_python({"kind": kind_of(loss)}) == loss()


@pytest.mark.parametrize("loss", VARIANTS)
@FAST
@given(case=cases())
def test_value_and_gradient_agree_with_a_naive_float64_reference(loss: Any, case: Case) -> None:
    value, gradient = run([loss], case)
    expected, expected_gradient = reference(loss, case)
    assert value == pytest.approx(expected, rel=1e-10, abs=1e-10)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("loss", VARIANTS)
@FAST
@given(case=cases())
def test_float32_agrees_with_the_reference_to_five_digits(loss: Any, case: Case) -> None:
    value, gradient = run([loss], case, dtype=torch.float32)
    expected, expected_gradient = reference(loss, case)
    assert value == pytest.approx(expected, rel=1e-5, abs=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("loss", VARIANTS)
@FAST
@given(case=cases())
def test_bfloat16_logits_give_the_float32_loss_of_the_same_logits(loss: Any, case: Case) -> None:
    rounded = Case(
        torch.tensor(case.student).bfloat16().double().numpy(),
        torch.tensor(case.teacher).bfloat16().double().numpy(),
        case.labels,
        case.mask,
        case.progress,
    )
    half, half_gradient = run([loss], rounded, dtype=torch.bfloat16)
    full, full_gradient = run([loss], rounded, dtype=torch.float32)
    assert half == pytest.approx(full, rel=1e-6, abs=1e-6)
    np.testing.assert_allclose(half_gradient, full_gradient, rtol=2**-8, atol=1e-4)


@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf, 1e30])
@pytest.mark.parametrize("loss", VARIANTS)
@FAST
@given(case=cases())
def test_what_masked_positions_hold_changes_neither_loss_nor_gradient(loss: Any, garbage: float, case: Case) -> None:
    value, gradient = run([loss], case)
    spoilt = Case(
        np.where(case.mask[:, None], case.student, garbage),
        np.where(case.mask[:, None], case.teacher, garbage),
        np.where(case.mask, case.labels, 0),
        case.mask,
        case.progress,
    )
    spoilt_value, spoilt_gradient = run([loss], spoilt)
    assert spoilt_value == value
    np.testing.assert_array_equal(spoilt_gradient, gradient)
    assert not spoilt_gradient[~case.mask].any()


@pytest.mark.parametrize("loss", VARIANTS)
@FAST
@given(case=cases())
def test_an_empty_mask_gives_zero_and_no_gradient(loss: Any, case: Case) -> None:
    value, gradient = run([loss], case, mask=np.zeros_like(case.mask))
    assert value == 0
    np.testing.assert_array_equal(gradient, np.zeros_like(gradient))


@FAST
@given(case=cases())
def test_unlabelled_rows_add_nothing_to_hard_labels(case: Case) -> None:
    loss = HardLabels(weight=Constant(value=1.0), label_smoothing=0.2)
    value, gradient = run([loss], case)
    labelled = case.labels != IGNORE_INDEX
    alone, alone_gradient = run([loss], case, mask=case.mask & labelled)
    assert value == alone
    np.testing.assert_array_equal(gradient, alone_gradient)
    assert not gradient[~labelled].any()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@FAST
@given(case=cases(least=2))
def test_a_student_that_says_what_its_teacher_says_has_nothing_to_learn(temperature: float, case: Case) -> None:
    loss = SoftTargets(weight=Constant(value=1.0), temperature=Constant(value=temperature))
    everywhere = np.ones_like(case.mask)
    same = Case(case.teacher, case.teacher, case.labels, everywhere, case.progress)
    for dtype, least, slope in ((torch.float64, 1e-13, 1e-14), (torch.float32, 2e-5, 2.5e-7)):
        value, gradient = run([loss], same, dtype=dtype)
        assert value == pytest.approx(0, abs=least)
        # T times two roundings of a probability.
        assert np.abs(gradient).max() <= slope * max(1.0, temperature)
    shifted = Case(np.roll(case.teacher, 1, axis=0), case.teacher, case.labels, everywhere, case.progress)
    assert run([loss], shifted)[0] > 0


@pytest.mark.parametrize("loss", VARIANTS)
@FAST
@given(case=cases())
def test_a_constant_added_to_a_row_of_logits_changes_nothing(loss: Any, case: Case) -> None:
    offsets = np.linspace(-20, 20, len(case.mask))[:, None]
    moved = Case(case.student + offsets, case.teacher - 3 * offsets, case.labels, case.mask, case.progress)
    value, gradient = run([loss], case)
    moved_value, moved_gradient = run([loss], moved)
    assert moved_value == pytest.approx(value, rel=1e-10, abs=1e-10)
    np.testing.assert_allclose(moved_gradient, gradient, rtol=1e-9, atol=1e-10)


@FAST
@given(case=cases(), size=st.integers(1, 7), seed=st.integers(0, 99))
def test_micro_batches_in_any_order_and_size_sum_to_the_whole_batch(case: Case, size: int, seed: int) -> None:
    losses = [loss() for loss in LOSSES]
    value, gradient = run(losses, case)
    count = case.mask.sum()
    order = np.random.default_rng(seed).permutation(len(case.mask))
    total, summed = 0.0, np.zeros_like(gradient)
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        piece = Case(case.student[rows], case.teacher[rows], case.labels[rows], case.mask[rows], case.progress)
        part, summed[rows] = run(losses, piece)
        total += part
    assert total / max(1, count) == pytest.approx(value / max(1, count), rel=1e-12, abs=1e-12)
    np.testing.assert_allclose(summed, gradient, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("loss", VARIANTS)
@FAST
@given(case=cases(), left=st.integers(0, 3), right=st.integers(0, 3))
def test_side_and_length_of_the_padding_do_not_matter(loss: Any, case: Case, left: int, right: int) -> None:
    def padded(before: int, after: int) -> tuple[float, Floats]:
        around = ((0, 0), (before, after))
        sums, gradient = evaluate(
            [loss],
            torch.tensor(np.pad(case.student[None], (*around, (0, 0)), constant_values=7.0)),
            torch.tensor(np.pad(case.teacher[None], (*around, (0, 0)), constant_values=-5.0)),
            torch.tensor(np.pad(case.labels[None], around)),
            torch.tensor(np.pad(case.mask[None], around)),
            case.progress,
        )
        return sums.total.item(), gradient.numpy()[0, before : before + len(case.mask)]

    value, gradient = run([loss], case)
    for before, after in ((left, right), (right, left), (0, left + right)):
        padded_value, padded_gradient = padded(before, after)
        assert padded_value == pytest.approx(value, rel=1e-12, abs=1e-13)
        np.testing.assert_allclose(padded_gradient, gradient, rtol=1e-12, atol=1e-14)


@FAST
@given(case=cases())
def test_the_total_is_the_weighted_sum_of_the_reported_parts(case: Case) -> None:
    losses = [loss() for loss in LOSSES]
    sums, _ = evaluate(
        losses,
        torch.tensor(case.student),
        torch.tensor(case.teacher),
        torch.tensor(case.labels),
        torch.tensor(case.mask),
        case.progress,
    )
    assert set(sums.parts) == {loss.kind for loss in losses}
    expected = sum(naive_schedule(loss.weight, case.progress) * sums.parts[loss.kind].item() for loss in losses)
    assert sums.total.item() == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert not any(part.requires_grad for part in sums.parts.values())


def test_gradients_keep_their_magnitude_as_the_temperature_grows() -> None:
    generator = np.random.default_rng(5)
    case = Case(
        generator.normal(size=(16, 6)),
        generator.normal(size=(16, 6)),
        np.zeros(16, dtype=np.int64),
        np.ones(16, dtype=np.bool_),
        0.0,
    )
    norms = []
    for temperature in (1.0, 2.0, 4.0, 10.0, 100.0, 1000.0):
        loss = SoftTargets(weight=Constant(value=1.0), temperature=Constant(value=temperature))
        norms.append(float(np.linalg.norm(run([loss], case)[1])))
    assert max(norms) / min(norms) < 3
    # The limit is half the mean squared difference of centred logits: its gradient is (student - teacher) / C.
    difference = case.student - case.teacher
    limit = (difference - difference.mean(axis=1, keepdims=True)) / 6
    assert norms[-1] == pytest.approx(float(np.linalg.norm(limit)), rel=1e-2)


@pytest.mark.parametrize("schedule", [Linear, Cosine])
@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_scheduled_temperature_reaches_student_and_teacher_alike(
    schedule: type[Linear] | type[Cosine], progress: float
) -> None:
    generator = np.random.default_rng(3)
    case = Case(
        generator.normal(size=(3, 4)) * 2,
        generator.normal(size=(3, 4)) * 2,
        np.zeros(3, dtype=np.int64),
        np.ones(3, dtype=np.bool_),
        progress,
    )
    loss = SoftTargets(weight=schedule(start=0.9, end=0.1), temperature=schedule(start=5.0, end=1.0))
    weight = {0.0: 0.9, 0.5: 0.5, 1.0: 0.1}[progress]
    temperature = {0.0: 5.0, 0.5: 3.0, 1.0: 1.0}[progress]
    log_p, log_q = (
        torch.log_softmax(torch.tensor(logits) / temperature, -1) for logits in (case.teacher, case.student)
    )
    expected = weight * temperature**2 * (log_p.exp() * (log_p - log_q)).sum().item()
    assert run([loss], case)[0] == pytest.approx(expected, rel=1e-12)
    built = loss.build()
    assert built.settings_at(progress) == {"temperature": pytest.approx(temperature)}
    assert built.weight_at(progress) == pytest.approx(weight)


@pytest.mark.parametrize("temperature", [0, -1.0, {"kind": "linear", "start": 4, "end": 0}, math.nan])
def test_a_temperature_that_is_not_positive_is_refused_by_the_settings(temperature: Any) -> None:
    with pytest.raises(ValidationError, match="temperature"):
        SoftTargets.model_validate({"temperature": temperature})


@pytest.mark.parametrize("temperature", [0.0, -2.0, math.nan])
def test_a_temperature_that_is_not_positive_is_refused_by_the_function(temperature: float) -> None:
    logits = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="temperature must be positive"):
        soft_target_kl(logits, logits, temperature=temperature)


@FAST
@given(case=cases())
def test_soft_targets_are_a_divergence_and_not_a_cross_entropy(case: Case) -> None:
    student, teacher = torch.tensor(case.student), torch.tensor(case.teacher)
    value = soft_target_kl(student, teacher, temperature=1.0).item()
    p = torch.softmax(teacher, -1)
    cross_entropy = torch.nn.functional.cross_entropy(student, p).item()
    entropy = -(p * p.log()).sum(-1).mean().item()
    assert value == pytest.approx(cross_entropy - entropy, abs=1e-12)
    assert entropy > 1e-6
    assert soft_target_kl(teacher, teacher, temperature=1.0).item() == pytest.approx(0, abs=1e-14)


@FAST
@given(case=cases(), temperature=st.floats(0.25, 20))
def test_the_public_function_agrees_with_torch(case: Case, temperature: float) -> None:
    student, teacher = torch.tensor(case.student), torch.tensor(case.teacher)
    mask = torch.tensor(case.mask)
    per_element = torch.nn.functional.kl_div(
        torch.log_softmax(student / temperature, -1),
        torch.softmax(teacher / temperature, -1),
        reduction="none",
    )
    rows = per_element.sum(-1) * temperature**2
    close = {"rel": 1e-9, "abs": 1e-11}
    assert soft_target_kl(student, teacher, temperature=temperature).item() == pytest.approx(
        rows.mean().item(), **close
    )
    expected = rows[mask].mean().item() if case.mask.any() else 0.0
    assert soft_target_kl(student, teacher, mask, temperature=temperature).item() == pytest.approx(expected, **close)


def test_the_public_function_keeps_masked_garbage_out_of_the_gradient() -> None:
    generator = torch.Generator().manual_seed(1)
    student = torch.randn(2, 3, 4, generator=generator, requires_grad=True)
    teacher = torch.randn(2, 3, 4, generator=generator)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    (clean,) = torch.autograd.grad(soft_target_kl(student, teacher, mask, temperature=2.0), student)
    spoilt = student.detach().masked_fill(~mask[..., None], math.nan).requires_grad_()
    value = soft_target_kl(spoilt, teacher.masked_fill(~mask[..., None], math.inf), mask, temperature=2.0)
    (gradient,) = torch.autograd.grad(value, spoilt)
    torch.testing.assert_close(gradient, clean, rtol=0, atol=0)
    assert not clean[~mask].any()


def test_the_public_function_softens_over_classes_and_not_over_the_sequence() -> None:
    teacher = torch.tensor([[[5.0, 0.0], [0.0, 5.0], [5.0, 5.0]]])
    student = teacher + torch.tensor([[[1.0], [2.0], [3.0]]])
    assert soft_target_kl(student, teacher, temperature=1.0).item() == pytest.approx(0, abs=1e-6)


def test_a_store_that_has_nothing_to_say_of_a_batch_without_positions_costs_nothing() -> None:
    # As a process under torchrun has it in a step whose rows are all of the others.
    loss = MixedLoss([SoftTargets().build(), HardLabels().build()])
    student = torch.randn(2, 5, 3, requires_grad=True)
    batch = Batch(("a", "b"), {}, torch.zeros(2, 5, dtype=torch.int64), torch.zeros(2, 5, dtype=torch.bool))
    total = loss(Signals(logits=student), Signals(), batch, progress=0.5).total
    (gradient,) = torch.autograd.grad(total, student)
    assert total.item() == 0 and not gradient.any()
