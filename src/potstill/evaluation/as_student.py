"""Another model in the student's place, so that the same gate can judge it."""

from collections.abc import Sequence
from typing import Any

from potstill.evaluation.answers import CAME
from potstill.evaluation.evaluate import cost_ratios
from potstill.records import Agreement, Comparison, Estimate, EvaluateRecord, ModelEvaluation
from potstill.teachers.self_taught import is_round

BESIDE_THE_TEST = ("judgement", "robustness", "out_of_domain", "token_robustness", "token_out_of_domain")
"""The fields of a record that have several models, and are of something else than the test rows."""


def others(evaluation: EvaluateRecord) -> list[str]:
    """The models that could be shipped instead of the student: the baseline, students of earlier rounds, and a student
    that existed already as it came. Teachers of an ensemble are none."""
    return [name for name in evaluation.models if name in ("baseline", CAME) or is_round(name)]


def as_student(evaluation: EvaluateRecord, name: str) -> EvaluateRecord:
    """The record in which one of its own models is the student."""
    compared = [each for each in evaluation.comparisons if each.of == name]
    model, agreement = evaluation.models[name], evaluation.agreement.get(name)
    found = in_place_of_student(evaluation, model, compared, agreement, name=name)
    if name != "baseline":
        return found
    # Against itself nothing is gained, for sure.
    nothing = Estimate(value=0, low=0, high=0, at_least=0, at_most=0)
    gains = ("gain_over_baseline_points", "kl_gain_over_baseline", "loss_gain_over_baseline")
    return found.model_copy(update={gain: nothing for gain in gains if getattr(found, gain) is not None})


def in_place_of_student(
    evaluation: EvaluateRecord,
    model: ModelEvaluation,
    comparisons: Sequence[Comparison] = (),
    agreement: Agreement | None = None,
    *,
    name: str | None = None,
) -> EvaluateRecord:
    """The record in which a model, such as an exported artefact, is the student.

    `comparisons` are those of it against teacher and baseline on the same rows, whatever they call it. A difference
    that they do not have is of the values alone, without an interval, and what the values do not tell is missing. So is
    what the record has beside the test rows, but for what it has of a model of this `name`.
    """
    teacher, baseline = evaluation.models["teacher"], evaluation.models.get("baseline")
    primary = evaluation.primary_metric
    pairs = {each.against: each.model_copy(update={"of": "student"}) for each in comparisons}
    score, of_teacher = model.score(primary).value, teacher.score(primary).value
    behind = _difference(pairs.get("teacher"), primary, score, of_teacher)
    gain = None
    if baseline is not None:
        gain = _difference(pairs.get("baseline"), primary, score, baseline.score(primary).value)
    changes: dict[str, Any] = {
        "models": {**evaluation.models, "student": model},
        "retention": Estimate.alone(score / of_teacher if of_teacher > 0 else 0.0),
        "drop_points": behind.negative(),
        "gain_over_baseline_points": gain,
        "kl_gain_over_baseline": baseline and _less(model.kl_mean, baseline.kl_mean),
        "loss_gain_over_baseline": baseline and _less(model.cross_entropy, baseline.cross_entropy, model.perplexity),
        "kl_gain_over_start": _less(model.kl_mean, evaluation.initial_kl_mean),
        "agreement": {"student": agreement} if agreement else {},
        "comparisons": list(pairs.values()),
        **_beside_the_test(evaluation, name),
        # These are of the student that was.
        "slices": [],
        "regressions": None,
        "classes": [],
        "disagreements": [],
        "findings": [],
    }
    return evaluation.model_copy(update=changes | cost_ratios(teacher, model))


def _beside_the_test(evaluation: EvaluateRecord, name: str | None) -> dict[str, Any]:
    """What was measured of models beside the test rows: of the student what there is of this name."""
    harness = evaluation.harness
    if harness is not None:
        harness = harness.model_copy(update={"scores": [_of_others(score, name) for score in harness.scores]})
    return {"harness": harness} | {each: _of_others(getattr(evaluation, each), name) for each in BESIDE_THE_TEST}


def _of_others(part: Any, name: str | None) -> Any:
    """What was measured of several models, with the one of this name as the student."""
    if part is None:
        return None
    changes: dict[str, Any] = {"models": {of: found for of, found in part.models.items() if of != "student"}}
    if name in part.models:
        changes["models"]["student"] = part.models[name]
    for inside in ("attacks", "unanswerable"):
        if (found := getattr(part, inside, None)) is not None:
            changes[inside] = _of_others(found, name)
    return part.model_copy(update=changes)


def _difference(pair: Comparison | None, metric: str, of: float, against: float) -> Estimate:
    """In points, with an interval where the two were compared row by row."""
    found = None if pair is None else pair.points_by_name.get(metric)
    return found or Estimate.alone(100 * (of - against))


def _less(value: float | None, before: float | None, measured: float | None = 0.0) -> Estimate | None:
    """How much less of something there is than before, where there is something."""
    if value is None or before is None or measured is None:
        return None
    return Estimate.alone(before - value)
