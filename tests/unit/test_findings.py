"""What the report says in sentences follows from the figures, the bad news included."""

from typing import Any

import pytest

from potstill.evaluation.findings import findings
from potstill.records import Estimate, EvaluateRecord, Reference
from tests.unit.finished_run import comparison, evaluation, points


def measured(**changes: Any) -> EvaluateRecord:
    return evaluation(with_baseline=True).model_copy(update=changes)


def test_a_good_run_says_that_distilling_paid_and_what_is_kept() -> None:
    said = findings(measured())
    assert len(said) == 2
    assert said[0].startswith("Distilling paid: the student is +7.1 points (95 % interval +5.4 to +8.8)")
    assert said[0].endswith("hard labels alone (from one seed; another may differ).")
    assert "keeps 97.4% of the teacher's accuracy" in said[1]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(-0.5, 3.0, "Distilling did not measurably pay"), (-4.0, -0.1, "Distilling did not pay")],
)
def test_a_gain_that_is_not_sure_or_negative_is_said(low: float, high: float, expected: str) -> None:
    gain = Estimate(value=(low + high) / 2, low=low, high=high)
    assert findings(measured(gain_over_baseline_points=gain))[0].startswith(expected)


@pytest.mark.parametrize(
    ("ahead", "expected"), [(2.0, "following it cannot pay"), (1.0, "following it may not pay"), (-1.0, None)]
)
def test_a_teacher_that_the_baseline_is_ahead_of_comes_first(ahead: float, expected: str | None) -> None:
    """That nothing can pay is said where the interval, here 1.3 points below what was measured, leaves no doubt."""
    pair = comparison("baseline", "teacher", ahead, 0.1)
    said = findings(measured(comparisons=[*evaluation(with_baseline=True).comparisons[:2], pair]))
    if expected is None:
        assert not any("following it" in line for line in said)
    else:
        assert expected in said[0] and "another may differ" in said[0]


@pytest.mark.parametrize(("below", "said"), [(-1.3, True), (-1.1, False)])
def test_a_student_measurably_below_its_floor_is_said(below: float, said: bool) -> None:
    floor = measured().floors["student_labels"].model_copy(update={"margin": points(below)})
    lines = findings(measured(floors={"student_labels": floor}))
    assert any("that simpler model serves better" in line for line in lines) is said


def test_a_weak_teacher_comes_before_all_else_and_one_that_may_be_weak_is_doubted() -> None:
    def against(value: float, margin: float) -> list[Reference]:
        return [Reference(name="TF-IDF", metric="accuracy", value=value, teacher=0.834, margin=points(margin))]

    weak = findings(measured(references=against(0.834, 0.0)))
    assert weak[0].startswith("The teacher's accuracy 83.4% is no better than TF-IDF (83.4%): nothing can be learnt")
    doubtful = findings(measured(references=against(0.824, 1.0)))
    assert "(83.4%) is not measurably better than TF-IDF (82.4%)" in doubtful[0]
    assert not any("TF-IDF" in line for line in findings(measured(references=against(0.8, 3.4))))


def test_one_of_several_teachers_that_is_no_better_than_a_floor_is_named() -> None:
    references = [Reference(name="guessing", metric="accuracy", value=0.5, teacher=0.834, margin=points(33.4))]
    scores = {"good": 0.9, "bad": 0.5}
    members = {
        name: measured()
        .models["teacher"]
        .model_copy(update={"accuracy": value, "accuracy_interval": Estimate(value=value, low=value, high=value)})
        for name, value in scores.items()
    }
    record = measured(references=references, models=measured().models | members)
    said = findings(record, ["good", "bad"])
    assert said[0].startswith("Of the teachers, bad has accuracy 50.0%, no better than guessing (50.0%)")
    assert not any("Of the teachers, good" in line for line in said)
    # Those that answer the rows of their domain alone are not asked about the others.
    assert not any("Of the teachers" in line for line in findings(record))


def test_a_floor_that_could_not_be_fitted_is_said() -> None:
    said = findings(measured(floors={}, floors_missing={"student_labels": "all of them have the same label"}))
    assert "There is no TF-IDF floor on the labelled rows of the student: all of them have the same label." in said


def test_of_five_rows_nothing_counts_as_measured() -> None:
    said = findings(measured(test_rows=5))
    assert said[0].startswith("The test has 5 rows")
    assert any(line.startswith("Distilling did not measurably pay") for line in said)
    assert not any("The test has" in line for line in findings(measured(test_rows=6)))


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
    pair = comparison("baseline", "teacher", -3.0, 0.1).model_copy(update={"score_points": {"entity_f1": points(10.0)}})
    said = findings(measured(models=models, primary_metric="entity_f1", comparisons=[pair]))
    assert said[0].startswith("The teacher (80.0%) is worse than the small model trained on hard labels alone (90.0%")
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
    pairs = [pair.model_copy(update={"score_points": {"exact_match": points(-5.0)}}) for pair in measured().comparisons]
    gain = Estimate(value=(low + high) / 2, low=low, high=high)
    nats = Estimate(value=0.1, low=0.05, high=0.2)
    said = findings(
        measured(
            models=models,
            comparisons=pairs,
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


def test_a_student_that_existed_is_told_of_in_three_models() -> None:
    models = measured().models
    came = models["student"].model_copy(
        update={"accuracy": 0.5, "accuracy_interval": Estimate(value=0.5, low=0.45, high=0.55)}
    )
    pairs = [comparison("student", "pretrained", 31.2, 1e-9), comparison("baseline", "pretrained", 24.1, 1e-9)]
    record = measured(models=models | {"pretrained": came}, comparisons=[*measured().comparisons, *pairs])
    line = next(line for line in findings(record) if line.startswith("As it came"))
    fine_tuned, distilled = (models[name].accuracy for name in ("baseline", "student"))
    assert line.startswith("As it came, the student's accuracy is 50.0%; fine-tuned on the labelled rows alone ")
    assert f"alone {fine_tuned:.1%} (+24.1 points" in line and f"distilled {distilled:.1%} (+31.2 points" in line
    assert not any(line.startswith("As it came") for line in findings(measured()))


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0.8, 0.4, "fell from 0.80 to 0.40 nats a token (50% of"),
        (0.4, 0.8, "did not measurably fall"),
        (2.6e-11, 0.0, ""),
    ],
)
def test_what_begins_as_its_teacher_has_nothing_to_fall_from(start: float, end: float, expected: str) -> None:
    models = measured().models
    student = models["student"].model_copy(update={"kl_mean": end, "perplexity": 9.0})
    record = measured(initial_kl_mean=start, models=models | {"student": student})
    said = [line for line in findings(record) if line.startswith("KL from the teacher")]
    assert bool(said) == bool(expected) and all(expected in line for line in said)
