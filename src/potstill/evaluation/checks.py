"""What the gate asks, each requirement beside what was measured; what was not measured fails, and says why."""

from collections.abc import Mapping
from typing import Literal

from potstill.evaluation.findings import digits
from potstill.evaluation.harness_gate import harness_checks
from potstill.evaluation.judged_writing.exchanges import CONTRADICTED, NO_REFERENCE, UNREADABLE_REFERENCE
from potstill.evaluation.metrics import FEWEST_ROWS, ON_OTHER_TEXTS, Metric, metric
from potstill.evaluation.references import is_beaten
from potstill.evaluation.writing_checks import writing_checks
from potstill.recipe import GateSettings
from potstill.recipe.requirements import Requirement, units_of
from potstill.records import QUERIES_OF_A_PERCENTILE, Check, Estimate, EvaluateRecord

MOST_NOT_JUDGED = 0.1
"""Share of the student's answers, of those whose row says what is right, that may go without a judgement. Were all of
these bad, a share of 90 % would be one of 81 %; beyond that, what was judged says too little of what was not."""
AS_A_COIN = 0.5
"""Share of the answers of which a judge that flips a coin says otherwise once they have changed places: who does so as
often has not judged."""
OF_OTHERS = "it was measured of other models of the run, and not of this one"
PERCENTILES: dict[str, Literal[95, 99]] = {"latency_p95_ms": 95, "latency_p99_ms": 99}


def checks_of(settings: GateSettings, evaluation: EvaluateRecord) -> list[Check]:
    """The teacher first, then whether the student writes as well as it, then every threshold that is set, those
    of tasks last."""
    return [
        *_of_teacher(evaluation, allowed=settings.allow_weak_teacher),
        *writing_checks(evaluation, allowed=settings.allow_degenerate_writing),
        *(check_of(requirement, evaluation) for requirement in settings.requirements()),
        *harness_checks(settings, evaluation),
    ]


def check_of(requirement: Requirement, evaluation: EvaluateRecord) -> Check:
    """A requirement against what was measured of the student."""
    required = metric(requirement.metric)
    found = required.in_record(evaluation)
    value = found.value if isinstance(found, Estimate) else found
    doubt = None if value is None or required.needs != "judge" else _doubt_of_judge(evaluation)
    bound = bound_of(requirement, found, evaluation) if requirement.confident and not doubt else None
    judged = None if doubt else bound if requirement.confident else value
    return Check(
        name=requirement.metric,
        required=str(requirement),
        measured=value,
        bound=bound,
        passed=judged is not None and requirement.met_by(judged),
        unit=requirement.unit,
        why=(doubt or _why_missing(required, evaluation, value=value)) if judged is None else None,
    )


def bound_of(requirement: Requirement, found: Estimate | float | None, evaluation: EvaluateRecord) -> float | None:
    """The one-sided 95 % bound on the side that is required; None where there is none to trust."""
    of = drawn(metric(requirement.metric), evaluation)
    if not isinstance(found, Estimate) or not found.known or of[0] < FEWEST_ROWS:
        return None
    # Records from before there were such bounds have the two-sided ones, which lie further out.
    if requirement.from_below:
        return found.low if found.at_least is None else found.at_least
    return found.high if found.at_most is None else found.at_most


def drawn(required: Metric, evaluation: EvaluateRecord) -> tuple[int, str, str]:
    """How many of what a metric's interval is over, and the key of a recipe that there are more by."""
    if required.of_writing:
        return evaluation.written_prompts or 0, "prompts", "evaluate.written"
    if required.needs == "judge":
        return _judged(required, evaluation), "judged prompts", "evaluate.written"
    if required.needs in ON_OTHER_TEXTS:
        return _other_texts(required, evaluation)
    return evaluation.test_rows, "test rows", "data.test"


def _other_texts(required: Metric, evaluation: EvaluateRecord) -> tuple[int, str, str]:
    """The same of what is measured on other texts than the test rows."""
    robustness = evaluation.robustness or evaluation.token_robustness
    outside = evaluation.out_of_domain or evaluation.token_out_of_domain
    attacks = evaluation.robustness.attacks if evaluation.robustness else None
    queries = evaluation.token_robustness.unanswerable if evaluation.token_robustness else None
    match required.needs:
        case "robustness.attacks":
            return attacks.rows if attacks else 0, "attacked rows", "evaluate.robustness.attacks"
        case "robustness.unanswerable":
            return queries.queries if queries else 0, "queries", "evaluate.robustness.unanswerable"
        case "out_of_domain":
            return outside.rows if outside else 0, "rows out of domain", "evaluate.out_of_domain"
    return robustness.rows if robustness else 0, "changed rows", "evaluate.robustness.rows"


def _judged(required: Metric, evaluation: EvaluateRecord) -> int:
    """Of how many of the student's answers a share is that a judge gives."""
    found = evaluation.judgement.models.get("student") if evaluation.judgement else None
    if found is None:
        return 0
    return found.of if required.name == "as_good_as_teacher" else found.judged


def _doubt_of_judge(evaluation: EvaluateRecord) -> str | None:
    """Why what a judge says of the student is not enough to go by; None where it is."""
    found = evaluation.judgement.models.get("student") if evaluation.judgement else None
    if found is None:
        return None
    aside = (NO_REFERENCE, UNREADABLE_REFERENCE, CONTRADICTED)
    faults = {reason: count for reason, count in found.not_judged.items() if reason not in aside}
    contradicted, failed = found.not_judged.get(CONTRADICTED, 0), sum(faults.values())
    answers = found.judged + contradicted + failed
    if failed > MOST_NOT_JUDGED * answers:
        return (
            f"{failed} of {answers} answers were not judged, more than {MOST_NOT_JUDGED:.0%} of them: "
            f"{_reasons(faults)}"
        )
    if contradicted and contradicted >= AS_A_COIN * (found.judged + contradicted):
        return (
            f"of {contradicted} of {found.judged + contradicted} answers its judge said otherwise once they had "
            "changed places, which is no surer than a coin"
        )
    return None


def _reasons(not_judged: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} ({count})" for reason, count in not_judged.items())


def _why_missing(required: Metric, evaluation: EvaluateRecord, *, value: float | None) -> str:
    """Why there is no value, or no bound of it."""
    words = required.named(evaluation.answers)
    count, of, key = drawn(required, evaluation)
    if value is not None and required.has_interval and count < FEWEST_ROWS:
        return f"nothing of fewer than {FEWEST_ROWS} {of} holds with 95 % confidence, and there are {count} ({key})"
    if value is not None and required.has_interval:
        return "it was not compared row by row, so its interval is not known"
    if value is not None:
        return f"{words} is measured without an interval, so nothing of it holds with 95 % confidence"
    if evaluation.answers not in required.of:
        return f"models that answer with {_ANSWERS[evaluation.answers]} have no {required.words}"
    if required.needs_baseline and "baseline" not in evaluation.models:
        return "it is measured against the baseline, which train.baseline: false leaves out"
    if required.name in PERCENTILES:
        percentile, timed = PERCENTILES[required.name], evaluation.measurement.rows
        return (
            f"a {percentile}th percentile needs {QUERIES_OF_A_PERCENTILE[percentile]} queries, and {timed} were timed"
        )
    if required.of_writing and not evaluation.written_prompts:
        return "evaluate.written is 0, so nothing of what models write was measured"
    if _only_of_others(required, evaluation):
        return OF_OTHERS
    if required.needs == "judge":
        return _why_not_judged(evaluation)
    if required.needs == "robustness.unanswerable" and evaluation.token_robustness is not None:
        why = evaluation.token_robustness.unanswerable_missing
        return f"no queries were asked that nobody can answer: {why}" if why else "no such query was answered"
    return "the measurements of this run do not have it"


def _only_of_others(required: Metric, evaluation: EvaluateRecord) -> bool:
    """Whether what it needs was measured of some models, and not of the student."""
    robustness = evaluation.robustness
    parts = {
        "robustness": robustness,
        "robustness.attacks": robustness and robustness.attacks,
        "out_of_domain": evaluation.out_of_domain,
        "judge": evaluation.judgement,
    }
    part = parts.get(required.needs or "")
    return part is not None and "student" not in part.models


def _why_not_judged(evaluation: EvaluateRecord) -> str:
    found = evaluation.judgement.models.get("student") if evaluation.judgement else None
    if evaluation.judgement is None or found is None:
        return "evaluate.judge names nobody who judges what models write"
    if found.judged and not evaluation.judgement.compares:
        return "the teacher has none of the judged answers right"
    if found.judged:
        return "its judge only compares answers"
    return f"no answer was judged: {_reasons(found.not_judged)}"


_ANSWERS = {
    "single_label": "a class",
    "multi_label": "labels",
    "regression": "a number",
    "tags": "tags",
    "text": "text",
    "target": "a target",
}


def unfit_unit(requirement: Requirement, required: Metric) -> str | None:
    """What is wrong with the unit in which a threshold of this metric is written."""
    unit, fit = requirement.unit, units_of(required.unit)
    if unit is None or unit in fit:
        return None
    instead = f"Write it in {' or '.join(fit)}" if fit else f"Write '{requirement.sign} {requirement.bare}'"
    return f"{required.words} is not measured in {unit}. {instead}."


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
