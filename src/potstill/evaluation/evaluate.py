"""Teacher, student and all others on the same rows: what their answers tell, what they cost, and how they compare."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from potstill.evaluation.answers import OVER_BASELINE, Judged, comparison, estimate, measured_by, pairs
from potstill.evaluation.case import Case
from potstill.evaluation.costs import costs_of, measurement
from potstill.evaluation.findings import findings
from potstill.evaluation.formulas import Resampled
from potstill.evaluation.judges import JUDGES
from potstill.evaluation.kept_rows import KeptRows, kept_rows
from potstill.evaluation.metrics import Measured, Unit, metric
from potstill.measure import quality
from potstill.records import Comparison, EvaluateRecord, ModelEvaluation
from potstill.runtimes.predictor import Predictor, release_all


def evaluate_models(
    case: Case,
    predictors: Mapping[str, Predictor],
    device: str,
    *,
    answer_all: Sequence[str] = (),
    keep: Callable[[KeptRows], None] | None = None,
) -> EvaluateRecord:
    """All models side by side. `answer_all` names the members of an ensemble of which each answers every row, and
    `keep` is given what each model answers to each row."""
    kind = case.recipe.task.answers
    judge = JUDGES[kind]
    answers = judge.answers_of(case, predictors)
    measured = measured_by(answers, kind)
    judged = judge.judged(case, answers, measured)
    if keep is not None:
        each = {model: judge.kept(case, answers, model) for model in answers.models}
        keep(kept_rows(case, each, judge.truth(case, answers)))
    beside = judge.beside(case, predictors, answers)
    # Speed is measured in other processes, which need the device to themselves.
    release_all(predictors.values())
    costs = costs_of(case, predictors, judged.queries, device)
    record = side_by_side(case, judged, measured, costs, device, **beside)
    return record.model_copy(update={"findings": findings(record, answer_all)})


def side_by_side(
    case: Case,
    judged: Judged,
    measured: Measured,
    costs: Mapping[str, Mapping[str, Any]],
    device: str,
    **beside: Any,
) -> EvaluateRecord:
    """The record of the models that answered, in their order, without what it means. `beside` are fields of it that are
    about other texts than the test rows."""
    task, answers = case.recipe.task, judged.answers
    models = {name: model_evaluation(name, measured, costs[name]) for name in answers.models}
    comparisons = [
        comparison(answers, of, against, points(measured, of, against)) for of, against in pairs(list(models))
    ]
    agreement = {name: answers.agreement(name) for name in models if name != "teacher"}
    primary = task.primary_metric
    counted = any(each.joules_per_query is not None for each in models.values())
    scores = measured[metric(primary).measured_as.name]
    record = EvaluateRecord(
        primary_metric=primary,
        test_rows=len(case.test),
        models=models,
        agreement={name: found for name, found in agreement.items() if found is not None},
        comparisons=comparisons,
        floors=dict(judged.floors),
        floors_missing=dict(judged.floors_missing),
        references=list(judged.references),
        classes=list(judged.classes),
        disagreements=list(judged.disagreements),
        generations=list(judged.generations),
        measurement=measurement(case, judged.queries, device, counted=counted),
        findings=[],
        **ratios(models, scores, next((each.points(primary) for each in comparisons if _paid(each)), None)),
        **judged.more,
        **beside,
    )
    assert record.answers == task.answers, f"a record that is judged by {primary} is taken for {record.answers}"
    return record


def _paid(each: Comparison) -> bool:
    return (each.of, each.against) == OVER_BASELINE


def model_evaluation(model: str, measured: Measured, costs: Mapping[str, Any]) -> ModelEvaluation:
    """One model from what was computed of its answers, and what it costs."""
    fields: dict[str, Any] = dict.fromkeys(_REQUIRED)
    scores = {}
    for name, values in measured.items():
        if model not in values:
            continue
        known, value = metric(name), values[model]
        found = value if known.resampled is None else estimate(value)
        if known.stored_as is None:
            scores[name] = found
        elif f"{known.stored_as}_interval" in ModelEvaluation.model_fields:
            fields |= {known.stored_as: found.value, f"{known.stored_as}_interval": found}
        else:
            fields[known.stored_as] = found
    return ModelEvaluation(**fields, scores=scores, **costs)


_REQUIRED = (
    "accuracy",
    "accuracy_interval",
    "macro_f1",
    "macro_f1_interval",
    "cross_entropy",
    "expected_calibration_error",
)
"""Fields of every model, None where its kind of answer has no such thing."""


def points(measured: Measured, of: str, against: str) -> dict[str, Any]:
    """The differences of two models in points, in every share that is resampled of both."""
    return {
        name: estimate(100 * (values[of] - values[against]))
        for name, values in measured.items()
        if metric(name).unit is Unit.SHARE and metric(name).resampled is not None and {of, against} <= set(values)
    }


def ratios(models: Mapping[str, ModelEvaluation], scores: Mapping[str, Resampled], gain: Any) -> dict[str, Any]:
    """The fields of an `EvaluateRecord` that set the student against teacher and baseline.

    `scores` are the primary metric's values of each model over the resamples, `gain` its gain over the baseline.
    """
    teacher, student = models["teacher"], models["student"]
    return {
        "retention": estimate(quality.retained(scores["student"], scores["teacher"])),
        "drop_points": estimate(100 * (scores["teacher"] - scores["student"])),
        "gain_over_baseline_points": gain,
        **cost_ratios(teacher, student),
    }


def cost_ratios(teacher: ModelEvaluation, student: ModelEvaluation) -> dict[str, float | None]:
    """The fields of an `EvaluateRecord` that set what a student costs against what its teacher does."""
    return {
        "speedup": teacher.latency_p50_ms / student.latency_p50_ms,
        "speedup_in_own_types": _speedup_in_own_types(teacher, student),
        "throughput_ratio": student.throughput_per_s / teacher.throughput_per_s,
        "size_ratio": teacher.size_bytes / student.size_bytes,
        "size_ratio_in_float32": teacher.num_parameters / student.num_parameters,
    }


def _speedup_in_own_types(teacher: ModelEvaluation, student: ModelEvaluation) -> float | None:
    own = [model.own_type_latency_p50_ms for model in (teacher, student)]
    if own == [None, None]:
        return None
    return (own[0] or teacher.latency_p50_ms) / (own[1] or student.latency_p50_ms)
