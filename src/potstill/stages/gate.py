"""gate: the recipe's thresholds against what was measured."""

from potstill.evaluation.findings import digits, weak_teacher
from potstill.evaluation.metrics import FEWEST_ROWS, metric
from potstill.evaluation.queries import thresholds_upside_down
from potstill.evaluation.references import is_beaten
from potstill.recipe import GateSettings, Recipe
from potstill.recipe.requirements import Requirement
from potstill.records import Check, Estimate, EvaluateRecord, GateRecord
from potstill.run_dir import RunDir, fingerprint


def gate(run: RunDir, recipe: Recipe, evaluation: EvaluateRecord) -> GateRecord:
    """The verdict with its reasons."""
    depends = {"gate": recipe.gate, "evaluation": fingerprint(evaluation)}
    return run.once("gate", depends, GateRecord, lambda _: judge(recipe.gate, evaluation))


def judge(settings: GateSettings, evaluation: EvaluateRecord) -> GateRecord:
    """The teacher first, then every threshold that is set; a quantity that was not measured fails."""
    checks = _of_teacher(evaluation, allowed=settings.allow_weak_teacher)
    checks += [_check(requirement, evaluation) for requirement in settings.requirements()]
    passed = all(check.passed for check in checks)
    warnings = list(thresholds_upside_down(settings, evaluation.answers))
    return GateRecord(passed=passed, checks=checks, weak_teacher=weak_teacher(evaluation), warnings=warnings)


def _check(requirement: Requirement, evaluation: EvaluateRecord) -> Check:
    found = metric(requirement.metric).in_record(evaluation)
    value = found.value if isinstance(found, Estimate) else found
    bound = _bound(requirement, found, evaluation) if requirement.confident else None
    judged = bound if requirement.confident else value
    return Check(
        name=requirement.metric,
        required=str(requirement),
        measured=value,
        bound=bound,
        passed=judged is not None and requirement.met_by(judged),
    )


def _bound(requirement: Requirement, found: Estimate | float | None, evaluation: EvaluateRecord) -> float | None:
    """The one-sided 95 % bound on the side that is required; None where there is none to trust."""
    if not isinstance(found, Estimate) or evaluation.test_rows < FEWEST_ROWS:
        return None
    # Records from before there were such bounds have the two-sided ones, which lie further out.
    if requirement.from_below:
        return found.low if found.at_least is None else found.at_least
    return found.high if found.at_most is None else found.at_most


def _of_teacher(evaluation: EvaluateRecord, *, allowed: bool) -> list[Check]:
    """Whether the teacher is worth following at all: for each metric the strongest of what it must be better than.

    A student can keep all of what a useless teacher knows, and every threshold that is relative to it.
    """
    checks = []
    for name in dict.fromkeys(reference.metric for reference in evaluation.references):
        low = metric(name).better == "lower"
        of_metric = [reference for reference in evaluation.references if reference.metric == name]
        strongest = (min if low else max)(of_metric, key=lambda reference: reference.value)
        sign, side = ("<", "below") if low else (">", "above")
        weak = not is_beaten(strongest)
        checks.append(
            Check(
                name=f"teacher_{name}_{side}_floor",
                required=f"{sign} {digits(strongest.value)} ({strongest.name})"
                + (", allowed by allow_weak_teacher" if weak and allowed else ""),
                measured=strongest.teacher,
                passed=allowed or not weak,
            )
        )
    return checks
