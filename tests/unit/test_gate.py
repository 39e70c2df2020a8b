"""The verdict follows from thresholds and measurements, and is given anew when either changes."""

from pathlib import Path

import pytest

from potstill.progress import Progress
from potstill.recipe import GateSettings, Recipe
from potstill.records import EvaluateRecord, Reference
from potstill.run_dir import open_run
from potstill.stages.gate import gate, judge
from tests.unit.finished_run import evaluation

RECIPE = {
    "task": {"kind": "text_classification"},
    "data": {"train": "train.jsonl", "validation": 0.1, "test": 0.1},
    "teacher": {"kind": "pretrained", "model": "org/name"},
}


def measured(*, with_baseline: bool = True) -> EvaluateRecord:
    return evaluation(with_baseline=with_baseline)


@pytest.mark.parametrize(
    ("field", "passes", "fails"),
    [
        ("min_retention", 0.974, 0.975),
        ("max_drop_points", 2.2, 2.1),
        ("min_speedup", 7.14, 7.2),
        ("min_agreement", 0.934, 0.94),
        ("min_gain_over_baseline_points", 7.1, 7.2),
        ("max_latency_p95_ms", 1000, 0.01),
        ("max_size_bytes", 10**12, 1),
        ("max_peak_memory_bytes", 10**12, 1),
    ],
)
def test_each_threshold_holds_up_to_its_bound(field: str, passes: float, fails: float) -> None:
    for threshold, expected in ((passes, True), (fails, False)):
        verdict = judge(GateSettings(**{"min_retention": None, field: threshold}), measured())
        assert verdict.passed is expected
        of_teacher, check = verdict.checks
        assert of_teacher.passed
        assert check.name == field.partition("_")[2] and check.passed is expected
        assert check.required == f"{'>=' if field.startswith('min') else '<='} {threshold:g}"
        assert check.measured is not None


def test_what_was_not_measured_fails_and_what_is_not_set_is_not_checked() -> None:
    without = measured(with_baseline=False)
    verdict = judge(GateSettings(min_gain_over_baseline_points=-5.0), without)
    assert not verdict.passed
    assert [(check.name, check.passed) for check in verdict.checks] == [
        ("teacher_accuracy_above_floor", True),
        ("retention", True),
        ("gain_over_baseline_points", False),
    ]
    # As records from before there was anything that a teacher must be better than.
    nothing = judge(GateSettings(min_retention=None), without.model_copy(update={"references": []}))
    assert nothing.passed and nothing.checks == [] and nothing.weak_teacher is None


@pytest.mark.parametrize(("teacher", "weak"), [(0.8, False), (0.79, True), (0.7, True)])
def test_a_teacher_that_is_no_better_than_the_floor_fails_the_run_unless_it_is_allowed(
    teacher: float, weak: bool
) -> None:
    """At the floor is not above it, whatever the student keeps of such a teacher."""
    names = {"the best": 0.79, "a weaker one": 0.1}
    references = [
        Reference(name=name, metric="accuracy", value=value, teacher=teacher, margin=None)
        for name, value in names.items()
    ]
    found = measured().model_copy(update={"references": references})
    verdict = judge(GateSettings(), found)
    first = verdict.checks[0]
    assert (first.name, first.required) == ("teacher_accuracy_above_floor", "> 0.79 (the best)")
    assert (first.measured, first.passed, verdict.passed) == (teacher, not weak, not weak)
    allowed = judge(GateSettings(allow_weak_teacher=True), found)
    assert allowed.passed
    assert ("allowed by allow_weak_teacher" in allowed.checks[0].required) is weak
    for each in (verdict, allowed):
        said = "The teacher's accuracy" in (each.weak_teacher or "")
        assert said is weak and "a weaker one" not in (each.weak_teacher or "")


def test_speed_is_judged_in_the_type_that_flatters_least() -> None:
    settings = GateSettings(min_retention=None, min_speedup=7)
    assert judge(settings, measured().model_copy(update={"speedup_in_own_types": 9.0})).checks[-1].measured == 7.14
    assert not judge(settings, measured().model_copy(update={"speedup_in_own_types": 5.0})).passed


def test_perplexity_must_be_below_what_knows_nothing() -> None:
    references = [
        Reference(name=name, metric="perplexity", value=value, teacher=40.0, margin=None)
        for name, value in {"untrained": 900.0, "frequencies": 40.0}.items()
    ]
    verdict = judge(GateSettings(min_retention=None), measured().model_copy(update={"references": references}))
    (check,) = verdict.checks
    assert (check.name, check.required) == ("teacher_perplexity_below_floor", "< 40 (frequencies)")
    assert not check.passed and "perplexity 40 is no better than frequencies (40)" in str(verdict.weak_teacher)


def test_a_percentile_of_too_few_queries_was_not_measured() -> None:
    few = measured()
    few = few.model_copy(update={"measurement": few.measurement.model_copy(update={"rows": 99})})
    verdict = judge(GateSettings(min_retention=None, max_latency_p95_ms=1000), few)
    assert not verdict.passed and verdict.checks[-1].measured is None


def test_a_second_measurement_of_the_same_models_is_judged_anew(tmp_path: Path) -> None:
    recipe = Recipe.model_validate(RECIPE | {"gate": {"min_retention": None, "min_speedup": 5}})
    first = measured().model_copy(update={"fingerprint": "the same models and rows"})
    with open_run(tmp_path, Progress()) as run:
        assert gate(run, recipe, first).passed
        assert not gate(run, recipe, first.model_copy(update={"speedup": 4.0})).passed
