"""Trainings whose answers have another form than one class: resumable, whatever the batches, and able to learn."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from potstill.data.encoded import EncodedRows
from potstill.losses import HardLabels, MixedLoss, SoftTargets
from potstill.progress import Progress
from potstill.recipe import OptimiserSettings
from potstill.schedules import Constant
from potstill.signals import IGNORE_INDEX
from potstill.stages.criteria import true_labels
from potstill.tasks import TextClassification
from potstill.tasks.target_scaler import TargetScaler
from potstill.teachers import FrozenTeacher
from potstill.training import loop
from potstill.training.batches import ShuffledRows
from potstill.training.frozen_layers import FrozenLayers
from potstill.training.loop import Job, fit, validate
from potstill.training.metrics import read_metrics
from potstill.training.one_process import OneProcess
from tests.contracts.test_regression import number_model
from tests.invariants.test_training import CLASSES, CPU, encoded, losses, over, tiny, weights

SEVERAL = TextClassification(problem_type="multi_label_classification")


def labelled(count: int, seed: int, *, unlabelled_from: int | None = None) -> EncodedRows:
    """Rows of which each has any of the labels."""
    rows = encoded(count, seed)
    labels = np.random.default_rng(seed).integers(0, 2, (count, CLASSES))
    if unlabelled_from is not None:
        labels[unlabelled_from:] = IGNORE_INDEX
    return replace(rows, labels=labels)


def job(*, dropout: float = 0.1, steps: int = 13, seed: int = 0, **settings: object) -> Job:
    asked = {"batch_size": 8, "learning_rate": 1e-2, "evaluate_every": 4}
    optimiser = OptimiserSettings(**(asked | settings))  # type: ignore[arg-type]
    return Job(
        name="train/student",
        model=tiny(seed, dropout=dropout),
        batches=ShuffledRows(labelled(37, 1, unlabelled_from=20), optimiser, 3),
        validation=labelled(16, 2),
        ask=SEVERAL.ask,
        loss=MixedLoss([SoftTargets().build(), HardLabels().build()]),
        teacher=FrozenTeacher(tiny(9), CPU, SEVERAL.ask),
        criterion=true_labels(),
        total_steps=steps,
        seed=3,
        settings=optimiser,
    )


NUMBERS = TextClassification(problem_type="regression")


def valued(count: int, seed: int, *, unlabelled_from: int | None = None) -> EncodedRows:
    """Rows of which each has a number, in standard units."""
    labels = np.random.default_rng(seed).normal(size=count).astype(np.float32)
    if unlabelled_from is not None:
        labels[unlabelled_from:] = np.nan
    return replace(encoded(count, seed), labels=labels)


def number_job(**settings: object) -> Job:
    each = job(dropout=0.0, **settings)
    return replace(
        over(valued(37, 1, unlabelled_from=20), each),
        model=number_model(0),
        validation=valued(16, 2),
        ask=NUMBERS.ask,
        teacher=FrozenTeacher(number_model(9), CPU, NUMBERS.ask),
    )


@pytest.mark.parametrize(
    "make", [lambda **settings: job(dropout=0.0, **settings), number_job], ids=["labels", "number"]
)
def test_one_batch_of_8_equals_8_batches_of_1(tmp_path: Path, make: Callable[..., Job]) -> None:
    runs = []
    for size in (8, 1):
        each = make(micro_batch_size=size)
        fit(each, tmp_path / str(size), OneProcess(CPU), Progress())
        runs.append((losses(tmp_path / str(size)), weights(each.model)))
    np.testing.assert_allclose(runs[0][0], runs[1][0], rtol=2e-4)
    torch.testing.assert_close(runs[0][1], runs[1][1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "make", [lambda **settings: job(dropout=0.0, **settings), number_job], ids=["labels", "number"]
)
def test_a_student_of_its_teachers_shape_can_be_driven_to_it(tmp_path: Path, make: Callable[..., Job]) -> None:
    soft = MixedLoss([SoftTargets(weight=Constant(value=1.0), temperature=Constant(value=2.0)).build()])
    each = make(steps=300, learning_rate=1e-2, decay="cosine", evaluate_every=300, weight_decay=0.0)
    each = replace(each, validation=each.batches.rows, loss=soft, criterion=soft, validation_teacher=each.teacher)
    before = validate(each, OneProcess(CPU)).validation_loss
    fit(each, tmp_path, OneProcess(CPU), Progress())
    assert validate(each, OneProcess(CPU)).validation_loss < 0.02 * before


def test_validation_counts_the_rows_of_which_all_labels_are_right() -> None:
    each = job(dropout=0.0)
    found = validate(each, OneProcess(CPU))
    batch = each.validation.collate(range(16))
    with torch.no_grad():
        x = each.model.eval()(**batch.inputs).logits
    assert found.validation_accuracy == ((x > 0).long() == batch.labels).all(dim=1).double().mean().item()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(x, batch.labels.float())
    assert found.validation_loss == pytest.approx(expected.item(), rel=1e-5)
    # In pieces of other sizes the same.
    small = replace(each, settings=each.settings.model_copy(update={"micro_batch_size": 3}))
    assert validate(small, OneProcess(CPU)).validation_accuracy == found.validation_accuracy


def test_an_adapted_teacher_can_have_its_lower_layers_frozen(tmp_path: Path) -> None:
    each = job(dropout=0.0)
    frozen = FrozenLayers(each.model, 1)
    kept = frozen.keep(each.batches.rows, CPU, 4, lambda amount=1, note="": None)  # type: ignore[arg-type]
    batch = kept.collate([0, 1])
    assert batch.whole_rows and batch.labels.shape == (2, CLASSES)
    frozen.detach()
    fit(
        replace(over(kept, each), validation=kept, loss=true_labels(), teacher=loop.no_teacher),
        tmp_path,
        OneProcess(CPU),
        Progress(),
    )
    frozen.restore()
    lines = [line for line in read_metrics(tmp_path / "metrics.jsonl") if line["kind"] == "step"]
    # A quarter of a step's rows can be unlabelled; the last of all still learns more than the first.
    assert lines[-1]["loss"] < lines[0]["loss"] + 0.2


def test_numbers_are_validated_by_their_loss_alone() -> None:
    each = number_job()
    found = validate(each, OneProcess(CPU))
    with torch.no_grad():
        said = each.model.eval()(**each.validation.collate(range(16)).inputs).logits[:, 0]
    expected = ((said - torch.from_numpy(each.validation.labels)) ** 2).mean().item() / 2  # type: ignore[attr-defined]
    assert found.validation_loss == pytest.approx(expected, rel=1e-5)
    assert found.validation_accuracy is None


def test_saving_in_the_unit_of_the_labels_changes_nothing_of_a_training(tmp_path: Path) -> None:
    """A snapshot on the way, and a training that goes on after it to the bit."""
    units, saved = TargetScaler(1000.0, 25.0), []

    def save(model: torch.nn.Module) -> None:
        with units.unscaled_outputs(model):  # type: ignore[arg-type]
            saved.append(model.classifier.bias.item())  # type: ignore[union-attr, operator]

    plain, snapped = number_job(), number_job()
    fit(plain, tmp_path / "plain", OneProcess(CPU), Progress())
    fit(replace(snapped, at_step={5: lambda: save(snapped.model)}), tmp_path / "snapped", OneProcess(CPU), Progress())
    assert 900 < saved[0] < 1100
    assert losses(tmp_path / "plain") == losses(tmp_path / "snapped")
    assert torch.equal(weights(plain.model), weights(snapped.model))
