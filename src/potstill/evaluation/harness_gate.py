"""What a gate requires of a student in tasks of lm-evaluation-harness."""

import difflib
from collections.abc import Iterator, Sequence
from statistics import NormalDist

from potstill.errors import RecipeError
from potstill.evaluation.harness_tasks import HarnessTask
from potstill.evaluation.metrics import FEWEST_ROWS
from potstill.presentation.formats import number
from potstill.recipe import GateSettings, Recipe
from potstill.recipe.requirements import Requirement, in_unit, with_unit
from potstill.records import Check, EvaluateRecord, HarnessScore, HarnessValue

RETENTION = ".retention"
"""Behind a metric: the student's share of what its teacher has of it."""
ONE_SIDED = NormalDist().inv_cdf(0.95)
"""Standard errors between a mean and its one-sided 95 % bound."""


def harness_checks(settings: GateSettings, evaluation: EvaluateRecord) -> list[Check]:
    return [_check(requirement, evaluation) for requirement in settings.harness_requirements()]


def harness_advice(checks: Sequence[Check]) -> Iterator[str]:
    """A sentence for each of them that failed."""
    for check in checks:
        if check.passed:
            continue
        if check.measured is None:
            yield f"{check.name} was not measured: {check.why}."
        elif check.why is not None:
            yield f"{check.name}: {check.why}."
        elif check.bound is not None:
            yield f"{check.name}: its 95 % bound, {_shown(check.bound, check)}, is not {check.required}."
        else:
            yield f"{check.name}: its value, {_shown(check.measured, check)}, is not {check.required}."


def _shown(value: float, check: Check) -> str:
    return with_unit(number(in_unit(value, check.unit)), check.unit)


def _check(requirement: Requirement, evaluation: EvaluateRecord) -> Check:
    score, value, why = _measured(requirement.metric, evaluation)
    measured, bound = None if value is None else value.value, None
    if value is not None and requirement.confident:
        bound, why = _bound(requirement, score, value)
    judged = bound if requirement.confident else measured
    return Check(
        name=f"harness.{requirement.metric}",
        required=str(requirement),
        measured=measured,
        bound=bound,
        passed=judged is not None and requirement.met_by(judged),
        unit=requirement.unit,
        why=why,
    )


def _measured(name: str, evaluation: EvaluateRecord) -> tuple[HarnessScore | None, HarnessValue | None, str | None]:
    """The score of this name and what the student has of it, or why it has nothing."""
    harness = evaluation.harness
    if harness is None:
        return None, None, "it was not put to tasks of lm-evaluation-harness"
    scores = {_name(score.task, score.metric): score for score in harness.scores}
    score = scores.get(name.removesuffix(RETENTION)) if name not in scores else scores[name]
    if score is None:
        return None, None, f"its tasks have {', '.join(scores)}"
    found = score.models.get("student")
    if found is None:
        others = "was measured of other models of the run, and not of this one"
        return score, None, f"it {others}" if score.models else "the harness gave no number"
    if name in scores:
        return score, found, None
    teacher = score.models.get("teacher")
    if teacher is None or teacher.value <= 0:
        return score, None, "its teacher has nothing of it that it could keep"
    return score, HarnessValue(value=found.value / teacher.value), None


def _bound(
    requirement: Requirement, score: HarnessScore | None, value: HarnessValue
) -> tuple[float | None, str | None]:
    """The bound on the side that is required, by the standard error of the harness; or why there is none."""
    if value.standard_error is None:
        return None, "it is measured without a standard error, so nothing of it holds with 95 % confidence"
    if score is not None and score.documents < FEWEST_ROWS:
        return None, (
            f"nothing of fewer than {FEWEST_ROWS} documents holds with 95 % confidence, and there are {score.documents}"
        )
    away = ONE_SIDED * value.standard_error
    return value.value - away if requirement.from_below else value.value + away, None


def _name(task: str, metric: str) -> str:
    return f"{task}.{metric}"


def require_harness(recipe: Recipe, tasks: Sequence[HarnessTask]) -> None:
    """That what the gate requires of tasks will be measured.

    Raises:
        RecipeError: a task or metric that there is not, or a form that is not put to tasks and would never pass.
    """
    required = list(recipe.gate.harness_requirements())
    if not required:
        return
    if recipe.evaluate.harness is None:
        raise RecipeError(
            f"gate.{required[0].key}: needs evaluate.harness, the tasks of lm-evaluation-harness, and the recipe does "
            "without. Give it, or drop the threshold."
        )
    known = [_name(task.name, metric) for task in tasks for metric in task.metrics]
    # Of groups, and of tasks that compute their own metrics, only running them tells.
    open_ended = not all(task.metrics for task in tasks)
    for requirement in required:
        name = requirement.metric.removesuffix(RETENTION)
        of_known = any(name.startswith(_name(task.name, "")) for task in tasks if task.metrics)
        if name not in known and (of_known or not open_ended):
            close = difflib.get_close_matches(name, known, n=3)
            instead = f"did you mean {' or '.join(close)}? " if close else ""
            raise RecipeError(
                f"gate.{requirement.key}: not measured by the tasks of this recipe; {instead}There are: "
                f"{', '.join(known)}, and each of them with {RETENTION} behind it."
            )
        if requirement.confident and name != requirement.metric:
            raise RecipeError(
                f"gate.{requirement.key}: a share of the teacher's has no standard error, so nothing of it holds with "
                "95 % confidence. Leave out (95%)."
            )
    for place, exporter in enumerate(recipe.export):
        if not exporter.same_files:
            raise RecipeError(
                f"gate.{required[0].key}: {exporter.name} (export[{place}]) is not put to tasks of "
                "lm-evaluation-harness, so it would never pass. Export {kind: safetensors}, or drop the threshold."
            )
