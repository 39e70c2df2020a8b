"""What the report says in sentences follows from the figures, the bad news included."""

from typing import Any

import pytest

from potstill.records import Estimate, EvaluateRecord
from potstill.stages.findings import findings
from tests.unit.finished_run import comparison, evaluation


def measured(**changes: Any) -> EvaluateRecord:
    return evaluation(with_baseline=True).model_copy(update=changes)


def with_accuracy(**accuracies: float) -> EvaluateRecord:
    found = measured()
    models = dict(found.models)
    for name, value in accuracies.items():
        interval = Estimate(value=value, low=value - 0.02, high=value + 0.02)
        models[name] = models[name].model_copy(update={"accuracy": value, "accuracy_interval": interval})
    return found.model_copy(update={"models": models})


def test_a_good_run_says_that_distilling_paid_and_what_is_kept() -> None:
    said = findings(measured())
    assert len(said) == 2
    assert said[0].startswith("Distilling paid: the student is +7.1 points (95 % interval +5.4 to +8.8)")
    assert "keeps 97.4% of the teacher's accuracy" in said[1]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(-0.5, 3.0, "Distilling did not measurably pay"), (-4.0, -0.1, "Distilling did not pay")],
)
def test_a_gain_that_is_not_sure_or_negative_is_said(low: float, high: float, expected: str) -> None:
    gain = Estimate(value=(low + high) / 2, low=low, high=high)
    assert findings(measured(gain_over_baseline_points=gain))[0].startswith(expected)


def test_a_teacher_worse_than_the_baseline_comes_first() -> None:
    assert "following it cannot pay" in findings(with_accuracy(teacher=0.70))[0]


def test_a_teacher_or_student_below_its_floor_is_said() -> None:
    assert any("it is under-trained" in line for line in findings(with_accuracy(teacher=0.78)))
    assert any("that simpler model serves better" in line for line in findings(with_accuracy(student=0.60)))


def test_a_loss_on_rare_classes_is_said_even_where_accuracy_gained() -> None:
    worse = Estimate(value=-4.5, low=-6.0, high=-3.0)
    pair = comparison("student", "baseline", 7.1, 0.001).model_copy(update={"macro_f1_points": worse})
    said = findings(measured(comparisons=[pair]))
    assert said[0].startswith("Distilling lost in macro-F1") and "the student is -4.5 points" in said[0]
    assert said[1].startswith("Distilling paid")


def test_without_a_baseline_nothing_is_said_about_it() -> None:
    assert not any("hard labels alone" in line for line in findings(evaluation(with_baseline=False)))


def test_the_primary_metric_is_what_is_kept_and_compared() -> None:
    scores = {"teacher": 0.8, "student": 0.7, "baseline": 0.9}
    models = {
        name: model.model_copy(update={"scores": {"entity_f1": Estimate(value=scores[name], low=0.6, high=0.95)}})
        for name, model in measured().models.items()
    }
    said = findings(measured(models=models, primary_metric="entity_f1"))
    assert said[0].startswith("The teacher (80.0%) is worse than the small model trained on hard labels alone (90.0%)")
    assert "of the teacher's entity F1 (" in said[-1]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1.0, 9.0, "more targets to the letter than"),
        (-9.0, -1.0, "fewer targets to the letter than"),
        (-2, 3, "about as many targets to the letter as"),
    ],
)
def test_whole_targets_are_compared_with_those_of_the_baseline(low: float, high: float, expected: str) -> None:
    scores = {"teacher": 0.8, "student": 0.75, "baseline": 0.7}
    models = {
        name: each.model_copy(
            update={
                "scores": {"exact_match": Estimate(value=scores[name], low=0.6, high=0.9)},
                "perplexity": 1.5,
                "kl_mean": None if name == "teacher" else 0.2,
            }
        )
        for name, each in measured().models.items()
    }
    gain = Estimate(value=(low + high) / 2, low=low, high=high)
    nats = Estimate(value=0.1, low=0.05, high=0.2)
    said = findings(
        measured(
            models=models,
            primary_metric="exact_match",
            gain_over_baseline_points=gain,
            kl_gain_over_baseline=nats,
            loss_gain_over_baseline=nats,
            test_tokens=100,
        )
    )
    line = next(line for line in said if "to the letter" in line)
    assert f"It writes {expected} the baseline: 75.0% against 70.0% ({gain.value:+.1f} points" in line
    assert any("of the teacher's exact match" in line for line in said)
