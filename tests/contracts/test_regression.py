"""Numbers for texts: the same losses between Gaussians of unit variance, and units that every saved model speaks."""

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from transformers import BertForSequenceClassification, RobertaConfig, RobertaForSequenceClassification

from potstill.data.rows import Row
from potstill.errors import DataError, ModelError
from potstill.labels import Dense, LabelSource, LabelStore, StoredTeacher, StoreWriter
from potstill.losses import HardLabels, MixedLoss, SoftTargets
from potstill.progress import unseen
from potstill.recipe import Recipe
from potstill.schedules import Constant
from potstill.signals import Batch, Signals
from potstill.tasks import TextClassification
from potstill.tasks.heads import last_layer
from potstill.tasks.problem_types import Regression
from potstill.tasks.target_scaler import TargetScaler
from potstill.teachers import FrozenTeacher
from tests.invariants.test_training import encoded, tiny

PROBLEM = Regression()
TASK = TextClassification(problem_type="regression")
ROWS = 6


def soft(temperature: float, **more: Any) -> SoftTargets:
    return SoftTargets(weight=Constant(value=0.7), temperature=Constant(value=temperature), **more)


def drawn(seed: int) -> Tensor:
    return torch.randn(ROWS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2


def batch_of(labels: Tensor, mask: Tensor | None = None) -> Batch:
    everywhere = torch.ones_like(labels, dtype=torch.bool)
    names = tuple(f"r{number}" for number in range(len(labels)))
    return Batch(names, {}, labels, everywhere if mask is None else mask, whole_rows=True)


LABELLED = batch_of(torch.tensor([1.5, math.nan, 0.0, -100.0, math.nan, 2.0], dtype=torch.float64))


def evaluated(losses: Sequence[Any], student: Tensor, teacher: Tensor, batch: Batch) -> tuple[float, Tensor]:
    student = student.clone().requires_grad_()
    total = MixedLoss([each.build() for each in losses])(
        Signals(mean=student), Signals(mean=teacher), batch, progress=0.5
    ).total
    return total.item(), torch.autograd.grad(total, student)[0]


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 100.0])
def test_soft_targets_are_the_divergence_of_gaussians_at_every_temperature(temperature: float, kind: str) -> None:
    """By quadrature of T^2 KL(N(t / T, 1) || N(s / T, 1)), and in closed form."""
    student, teacher = drawn(1), drawn(2)
    value, gradient = evaluated([soft(temperature, divergence=kind)], student, teacher, LABELLED)
    total = 0.0
    for s, t, slope in zip(student.tolist(), teacher.tolist(), gradient.tolist(), strict=True):
        p, q = (t / temperature, s / temperature) if kind == "forward_kl" else (s / temperature, t / temperature)
        x = np.linspace(p - 12, p + 12, 20_001)
        density = np.exp(-((x - p) ** 2) / 2) / math.sqrt(2 * math.pi)
        total += 0.7 * temperature**2 * np.trapezoid(density * ((x - q) ** 2 - (x - p) ** 2) / 2, x)
        assert slope == pytest.approx(0.7 * (s - t), rel=1e-10)
    assert value == pytest.approx(total, rel=1e-6)
    assert value == pytest.approx(0.7 * sum((t - s) ** 2 / 2 for s, t in zip(student, teacher, strict=True)).item())


def test_hard_labels_are_the_negative_log_likelihood_of_the_labelled_rows_up_to_a_constant() -> None:
    student = drawn(3)
    value, gradient = evaluated([HardLabels(weight=Constant(value=0.4))], student, drawn(4), LABELLED)
    total = 0.0
    for place, (s, y) in enumerate(zip(student.tolist(), LABELLED.labels.tolist(), strict=True)):
        known = not math.isnan(y)
        density = torch.distributions.Normal(s, 1.0)
        total -= 0.4 * (density.log_prob(torch.tensor(y)).item() + math.log(2 * math.pi) / 2) if known else 0.0
        assert gradient[place].item() == pytest.approx(0.4 * (s - y) if known else 0.0)
    assert value == pytest.approx(total, rel=1e-5)


def test_a_student_that_says_what_its_teacher_says_has_nothing_to_learn() -> None:
    teacher = drawn(5)
    value, gradient = evaluated([soft(3.0)], teacher, teacher, LABELLED)
    assert value == 0 and not gradient.any()
    assert evaluated([soft(3.0)], teacher.roll(1), teacher, LABELLED)[0] > 0


@pytest.mark.parametrize("garbage", [math.nan, math.inf, 1e30])
def test_what_masked_rows_hold_changes_neither_loss_nor_gradient(garbage: float) -> None:
    mask = torch.tensor([True, True, False, True, False, True])
    student, teacher, losses = drawn(6), drawn(7), [soft(2.0), HardLabels()]
    value, gradient = evaluated(losses, student, teacher, batch_of(LABELLED.labels, mask))
    spoilt = [each.masked_fill(~mask, garbage) for each in (student, teacher, LABELLED.labels)]
    spoilt_value, spoilt_gradient = evaluated(losses, spoilt[0], spoilt[1], batch_of(spoilt[2], mask))
    assert spoilt_value == value
    torch.testing.assert_close(spoilt_gradient, gradient, rtol=0, atol=0)
    assert not gradient[~mask].any()
    assert evaluated(losses, student, teacher, batch_of(LABELLED.labels, torch.zeros_like(mask)))[0] == 0


def number_model(seed: int) -> BertForSequenceClassification:
    """A model whose head gives one number."""
    config = copy.deepcopy(tiny(0, dropout=0.0).config)
    config.num_labels = 1
    torch.manual_seed(seed)
    return BertForSequenceClassification(config)


def roberta() -> RobertaForSequenceClassification:
    torch.manual_seed(1)
    return RobertaForSequenceClassification(
        RobertaConfig(
            vocab_size=50,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            num_labels=1,
            max_position_embeddings=40,
        )
    )


UNITS = TargetScaler(mean=90.0, deviation=17.5)


@pytest.mark.parametrize("make", [lambda: number_model(3), roberta], ids=["bert", "roberta"])
def test_a_model_in_standard_units_speaks_in_those_of_the_labels_where_it_is_saved(make: Any) -> None:
    model = make().eval()
    batch = encoded(5, 1).collate(range(5))
    before = {name: each.clone() for name, each in model.state_dict().items()}
    with torch.no_grad():
        standard = model(**batch.inputs).logits
        with UNITS.unscaled_outputs(model):
            raw = model(**batch.inputs).logits
            saved = copy.deepcopy(model)
    torch.testing.assert_close(raw, standard * 17.5 + 90, rtol=1e-6, atol=1e-4)
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    UNITS.standardise(saved)
    with torch.no_grad():
        torch.testing.assert_close(saved(**batch.inputs).logits, standard, rtol=1e-4, atol=1e-5)


def test_a_head_that_is_not_known_is_refused() -> None:
    with pytest.raises(ModelError, match="linear layer of 1 outputs"):
        last_layer(tiny(0), outputs=1)


def test_units_are_those_of_the_labelled_rows() -> None:
    rows = [Row("a", "x", 1.0), Row("b", "x", None), Row("c", "x", 5.0)]
    assert TargetScaler.of(rows) == TargetScaler(3.0, 2.0)
    assert TargetScaler.of(rows[:1]) == TargetScaler(1.0, 1.0)
    found = PROBLEM.targets(rows, ["value"])
    assert found[0] == 1 and math.isnan(found[1]) and found[2] == 5
    assert TargetScaler(3.0, 2.0).standard(torch.tensor([1.0, 5.0])).tolist() == [-1.0, 1.0]


def test_a_stored_teacher_and_one_that_is_asked_are_the_same_in_standard_units(tmp_path: Path) -> None:
    """What is stored is in the unit of the labels, so that other labelled rows relabel nothing."""
    rows, teacher = encoded(7, 2), FrozenTeacher(number_model(4), torch.device("cpu"), TASK.ask)
    source = LabelSource(teacher="t", tokenizer="k", data="d", labels=("value",), max_length=8, precision="x")
    StoreWriter(tmp_path, Dense(), source).write(
        rows.ids, [list(range(7))], 1, lambda batch: PROBLEM.outputs(teacher(rows.collate(batch))), unseen
    )
    stored = StoredTeacher(LabelStore(tmp_path), torch.device("cpu"), PROBLEM.signals)
    batch = rows.collate(range(7))
    means = [UNITS.of_teacher(each)(batch).mean for each in (stored, teacher)]
    assert means[0] is not None and means[1] is not None
    assert torch.equal(means[0], means[1])
    asked = teacher(batch).mean
    assert asked is not None
    torch.testing.assert_close(means[0] * 17.5 + 90, asked, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"losses": [{"kind": "soft_targets", "divergence": "generalised_jsd"}]}, r"losses\[0\].divergence: general"),
        ({"losses": [{"kind": "soft_targets", "divergence": "total_variation"}]}, "use forward_kl or reverse_kl"),
        ({"losses": [{"kind": "hard_labels", "label_smoothing": 0.1}]}, "label_smoothing: numbers have no other"),
        ({"train": {"select_by": "validation_accuracy"}}, "train.select_by: of numbers none is right or wrong"),
        ({"adapt": {"select_by": "validation_accuracy"}}, "adapt.select_by"),
        ({"gate": {"min_agreement": 0.9}}, "gate.min_agreement"),
        (
            {"teacher": {"kind": "mixture", "of": {"a": {"model": "x"}, "b": {"model": "y"}}}},
            "mixture mixes distributions over classes",
        ),
    ],
)
def test_what_has_no_meaning_for_numbers_is_refused_in_the_recipe(change: dict[str, Any], reason: str) -> None:
    recipe: dict[str, Any] = {
        "task": {"kind": "text_classification", "problem_type": "regression"},
        "data": {"train": "a", "validation": "b", "test": "c"},
        "teacher": {"kind": "pretrained", "model": "x"},
    }
    Recipe.model_validate(recipe)
    with pytest.raises(ValidationError, match=reason):
        Recipe.model_validate(recipe | change)


def test_labels_that_are_all_the_same_number_are_refused() -> None:
    rows = {name: [Row("a", "x", 2.0), Row("b", "y", 2.0)] for name in ("train", "validation", "test")}
    with pytest.raises(DataError, match=r"data.train: all labels are the same number"):
        PROBLEM.label_names(rows)
