"""Several labels for a text: the same losses, in the mean over labels that are each a Bernoulli distribution."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from potstill.data.rows import Row
from potstill.labels import Dense, LabelSource, LabelStore, StoredTeacher, StoreWriter
from potstill.losses import HardLabels, MixedLoss, SoftTargets
from potstill.progress import unseen
from potstill.schedules import Constant
from potstill.signals import IGNORE_INDEX, Batch, Signals
from potstill.tasks.heads import start_at_shares
from potstill.tasks.problem_types import MultiLabel
from potstill.teachers import EnsembleTeacher, Mixture, Routed
from tests.invariants.test_training import tiny

PROBLEM = MultiLabel()
ROWS, LABELS = 4, 3


def soft(temperature: float, **more: Any) -> SoftTargets:
    return SoftTargets(weight=Constant(value=0.7), temperature=Constant(value=temperature), **more)


def drawn(seed: int) -> Tensor:
    return torch.randn(ROWS, LABELS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2


def batch_of(labels: Sequence[Sequence[int]], mask: Tensor | None = None) -> Batch:
    held = torch.tensor(labels)
    everywhere = torch.ones_like(held, dtype=torch.bool)
    return Batch(
        tuple(f"r{number}" for number in range(len(held))),
        {},
        held,
        everywhere if mask is None else mask,
        whole_rows=True,
    )


LABELLED = batch_of([[1, 0, 0], [0, 0, 0], [IGNORE_INDEX] * 3, [1, 0, 1]])


def evaluated(losses: Sequence[Any], student: Tensor, teacher: Tensor, batch: Batch) -> tuple[float, Tensor]:
    student = student.clone().requires_grad_()
    loss = MixedLoss([each.build() for each in losses])
    total = loss(PROBLEM.signals(student), PROBLEM.signals(teacher), batch, progress=0.5).total
    return total.item(), torch.autograd.grad(total, student)[0]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def naive_soft(kind: str, x: float, t: float, temperature: float) -> tuple[float, float]:
    """T^2 KL of two Bernoulli distributions and its slope by the student's log-odds x."""
    p, q = sigmoid(t / temperature), sigmoid(x / temperature)
    if kind == "forward_kl":
        value = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
        slope = (q - p) / temperature
    else:
        value = q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
        # d/dq = log(q / p) - log((1 - q) / (1 - p)), the difference of the softened log-odds.
        slope = q * (1 - q) * ((x - t) / temperature) / temperature
    return temperature**2 * value, temperature**2 * slope


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5, 8.0])
@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl"])
def test_soft_targets_are_the_divergence_of_bernoulli_distributions(kind: str, temperature: float) -> None:
    student, teacher = drawn(1), drawn(2)
    loss = soft(temperature, divergence=kind)
    value, gradient = evaluated([loss], student, teacher, LABELLED)
    total = 0.0
    for row in range(ROWS):
        for label in range(LABELS):
            each, slope = naive_soft(kind, student[row, label].item(), teacher[row, label].item(), temperature)
            total += 0.7 * each
            assert gradient[row, label].item() == pytest.approx(0.7 * slope, rel=1e-10, abs=1e-12)
    assert value == pytest.approx(total, rel=1e-10)


def test_hard_labels_are_the_binary_cross_entropy_of_the_labelled_rows() -> None:
    student = drawn(3)
    value, gradient = evaluated([HardLabels(weight=Constant(value=0.4))], student, drawn(4), LABELLED)
    total = 0.0
    for row in range(ROWS):
        for label in range(LABELS):
            truth, q = LABELLED.labels[row, label].item(), sigmoid(student[row, label].item())
            known = truth != IGNORE_INDEX
            total += -0.4 * math.log(q if truth == 1 else 1 - q) if known else 0.0
            expected = 0.4 * (q - truth) if known else 0.0
            assert gradient[row, label].item() == pytest.approx(expected, rel=1e-12, abs=1e-15)
    assert value == pytest.approx(total, rel=1e-12)
    # As transformers has it, in the mean over all decisions.
    known_rows = [0, 1, 3]
    mean = torch.nn.BCEWithLogitsLoss()(student[known_rows], LABELLED.labels[known_rows].double())
    assert value / (3 * LABELS) == pytest.approx(0.4 * mean.item(), rel=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_a_student_that_says_what_its_teacher_says_has_nothing_to_learn(temperature: float) -> None:
    teacher = drawn(5)
    value, gradient = evaluated([soft(temperature)], teacher, teacher, LABELLED)
    assert value == 0
    assert gradient.abs().max() <= 1e-15 * max(1.0, temperature)
    assert evaluated([soft(temperature)], teacher.roll(1, dims=1), teacher, LABELLED)[0] > 0


@pytest.mark.parametrize("garbage", [math.nan, math.inf, -1e30])
def test_what_masked_labels_hold_changes_neither_loss_nor_gradient(garbage: float) -> None:
    mask = torch.tensor([[True, False, True], [False] * 3, [True] * 3, [True, True, False]])
    student, teacher, losses = drawn(6), drawn(7), [soft(2.0), HardLabels()]
    masked = batch_of(LABELLED.labels.tolist(), mask)
    value, gradient = evaluated(losses, student, teacher, masked)
    spoilt = [each.masked_fill(~mask, garbage) for each in (student, teacher)]
    other = batch_of(LABELLED.labels.where(mask, 1 - LABELLED.labels.clamp(min=0)).tolist(), mask)
    spoilt_value, spoilt_gradient = evaluated(losses, spoilt[0], spoilt[1], other)
    assert spoilt_value == value
    torch.testing.assert_close(spoilt_gradient, gradient, rtol=0, atol=0)
    assert not gradient[~mask].any()


def test_gradients_keep_their_magnitude_as_the_temperature_grows() -> None:
    student, teacher = drawn(8), drawn(9)
    gradients = [evaluated([soft(t)], student, teacher, LABELLED)[1] for t in (1.0, 4.0, 1000.0)]
    norms = [each.norm().item() for each in gradients]
    assert max(norms) / min(norms) < 3
    # The slope of a sigmoid is a quarter at 0.
    torch.testing.assert_close(gradients[-1], 0.7 * (student - teacher) / 4, rtol=1e-4, atol=1e-5)


def test_the_outputs_of_a_head_come_back_exactly() -> None:
    outputs = drawn(10).float()
    assert torch.equal(PROBLEM.outputs(PROBLEM.signals(outputs)), outputs)


def test_targets_are_ones_for_the_labels_that_a_row_has() -> None:
    rows = [Row("a", "x", ("tin", "zinc")), Row("b", "x", ()), Row("c", "x", None)]
    found = PROBLEM.targets(rows, ["iron", "tin", "zinc"])
    assert found.tolist() == [[0, 1, 1], [0, 0, 0], [IGNORE_INDEX] * 3]


def test_stored_labels_are_one_number_each_and_teach_as_the_model_does(tmp_path: Path) -> None:
    outputs = drawn(11).float()
    source = LabelSource(teacher="t", tokenizer="k", data="d", labels=("a", "b", "c"), max_length=8, precision="x")
    StoreWriter(tmp_path, Dense(), source).write(
        LABELLED.ids,
        [[1, 3], [0, 2]],
        1,
        lambda rows: PROBLEM.outputs(PROBLEM.signals(outputs[rows])),
        unseen,
    )
    store = LabelStore(tmp_path)
    assert store.logits(LABELLED.ids).shape == (ROWS, LABELS)
    stored = StoredTeacher(store, torch.device("cpu"), PROBLEM.signals)(LABELLED)
    loss, student = MixedLoss([soft(2.0).build()]), drawn(12).float()
    values = [
        loss(PROBLEM.signals(student), teacher, LABELLED, progress=0.0).total
        for teacher in (stored, PROBLEM.signals(outputs))
    ]
    assert values[0].item() == values[1].item() > 0


def test_losses_on_features_weigh_the_tokens_of_a_row_by_its_labels() -> None:
    mask = torch.tensor([[True, True, True], [True, False, True], [False] * 3])
    batch = Batch(
        ("a", "b", "c"),
        {"attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]])},
        torch.zeros(3, 3, dtype=torch.int64),
        mask,
        whole_rows=True,
    )
    assert batch.token_weights.tolist() == [[0.75] * 4, [1.0, 1.0, 0.0, 0.0], [0.0] * 4]
    assert batch.token_weights.sum() == mask.sum()
    assert batch.to(torch.device("cpu")).whole_rows


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_several_teachers_are_mixed_label_by_label(temperature: float) -> None:
    outputs = {"a": drawn(13), "b": drawn(14)}
    members = {name: (lambda batch, x=x: PROBLEM.signals(x)) for name, x in outputs.items()}
    of = {"a": {"model": "x"}, "b": {"model": "y"}}
    mask = torch.tensor([[True, False, True], [False] * 3, [True] * 3, [True, True, False]])
    batch, student = batch_of(LABELLED.labels.tolist(), mask), drawn(15)

    def total(said: Signals) -> float:
        loss = MixedLoss([soft(temperature).build()])
        return loss(PROBLEM.signals(student), said, batch, progress=0.0).total.item()

    mixture = Mixture.model_validate({"of": of, "weights": {"a": 3}})
    expected = 0.0
    for row, label in mask.nonzero().tolist():
        a, b = (sigmoid(each[row, label].item() / temperature) for each in outputs.values())
        p, q = 0.75 * a + 0.25 * b, sigmoid(student[row, label].item() / temperature)
        expected += 0.7 * temperature**2 * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    assert total(EnsembleTeacher(mixture, members, {})(batch)) == pytest.approx(expected, rel=1e-6)

    routed = Routed.model_validate({"of": of, "by": "domain", "domains": {"a": ["x"], "b": ["y"]}})
    routes = {"r0": (1, 3), "r1": (0, 3), "r2": (0, 3), "r3": (1, 3)}
    chosen = torch.stack([outputs["b" if routes[name][0] else "a"][row] for row, name in enumerate(batch.ids)])
    assert total(EnsembleTeacher(routed, members, routes)(batch)) == pytest.approx(
        total(PROBLEM.signals(chosen)), rel=1e-6
    )


def test_numbers_of_a_batch_are_those_of_its_rows() -> None:
    """A batch in pieces sums to the whole."""
    student, teacher, losses = drawn(16), drawn(17), [soft(2.0), HardLabels()]
    value, gradient = evaluated(losses, student, teacher, LABELLED)
    pieces = [
        evaluated(losses, student[row : row + 1], teacher[row : row + 1], batch_of([LABELLED.labels[row].tolist()]))
        for row in range(ROWS)
    ]
    assert sum(part for part, _ in pieces) == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(torch.cat([each for _, each in pieces]), gradient, rtol=1e-12, atol=1e-15)


def test_a_new_head_begins_with_the_share_of_the_labelled_rows_that_have_each_label() -> None:
    model = tiny(0, dropout=0.0).eval()
    before = model.classifier.weight.clone()
    labels = np.array([[1, 0, 0, 1, 0], [1, 0, 1, 1, 0], [1, 0, 0, 0, 0], [IGNORE_INDEX] * 5])
    start_at_shares(model, labels)
    # Of three labelled rows, with half a row to each side.
    expected = [math.log(each) for each in (3.5 / 0.5, 0.5 / 3.5, 1.5 / 2.5, 2.5 / 1.5, 0.5 / 3.5)]
    assert model.classifier.bias.tolist() == pytest.approx(expected)
    assert torch.equal(model.classifier.weight, before)
