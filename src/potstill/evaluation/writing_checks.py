"""Whether a student writes the same words over and over, or without an end, where its teacher does not.

A model can be near its teacher at each token of true responses and still go round in circles by itself, for what it
has said once it finds likelier the next time (Holtzman et al. 2020, arXiv:1904.09751).
"""

from dataclasses import dataclass

from potstill.evaluation.metrics import FEWEST_ROWS, metric
from potstill.measure.writing import repeated_share
from potstill.presentation.formats import cut, percent
from potstill.records import Check, Estimate, EvaluateRecord

MOST_REPETITION = 20.0
"""Points by which a student's repetition may be above its teacher's. Where a fifth more of a response is said for the
second time, no difference of tone explains it; one that goes in circles is far beyond, with more than half."""
MOST_UNENDED = 30.0
"""Points by which a student may come to an end less often than its teacher. Less than that can be chance over 32
prompts: the 95 % interval of a difference of two shares is then up to 25 points to either side."""
EXAMPLE_CHARACTERS = 80


@dataclass(frozen=True)
class Leg:
    """One way in which writing can be degenerate."""

    check: str
    metric: str
    sign: int
    """1 where more of the metric is worse, -1 where less is."""
    most: float
    """Points by which it may be worse than the teacher's."""


LEGS = (
    Leg("repetition_over_teacher_points", "repeated_ngrams", 1, MOST_REPETITION),
    Leg("unended_over_teacher_points", "ended", -1, MOST_UNENDED),
)


def writing_checks(evaluation: EvaluateRecord, *, allowed: bool) -> list[Check]:
    """Whether the student's writing is degenerate where its teacher's is not; none where it was not measured.

    It fails where it is worse by more than is allowed and the 95 % interval of the difference leaves out zero. Where
    there is no interval to trust, of few prompts or of models that were not compared, the difference alone decides.
    """
    checks = []
    for leg in LEGS:
        worse = _worse(evaluation, leg)
        if worse is None:
            continue
        too_much = worse.value > leg.most
        by_chance = worse.low <= 0 and worse.known and (evaluation.written_prompts or 0) >= FEWEST_ROWS
        notes = {"by chance, for its interval holds 0": by_chance, "allowed by allow_degenerate_writing": allowed}
        note = next((f", {words}" for words, holds in notes.items() if too_much and holds), "")
        checks.append(
            Check(
                name=leg.check,
                required=f"<= {leg.most:g} points{note}",
                measured=worse.value,
                passed=not too_much or by_chance or allowed,
                unit="points",
            )
        )
    return checks


def degenerate_writing(evaluation: EvaluateRecord) -> str | None:
    """What is wrong with the student's writing, in words and with an example; None where nothing is."""
    failed = {check.name for check in writing_checks(evaluation, allowed=False) if not check.passed}
    said = {
        "repeated_ngrams": "writes the same four words again {student} of the time, its teacher {teacher}",
        "ended": "comes to an end after {student} of the prompts, its teacher after {teacher}",
    }
    parts = []
    for leg in LEGS:
        if leg.check in failed:
            shares = {name: percent(_value(evaluation, name, leg.metric)) for name in ("student", "teacher")}
            parts.append(said[leg.metric].format(**shares))
    if not parts:
        return None
    example = _example(evaluation)
    return (
        f"The student {' and '.join(parts)}{f', as in {example}' if example else ''}. "
        "Train it longer, on more rows, or with more layers; gate.allow_degenerate_writing: true judges it all the "
        "same."
    )


def _worse(evaluation: EvaluateRecord, leg: Leg) -> Estimate | None:
    """By how many points the student is worse than the teacher."""
    for pair in evaluation.comparisons:
        if (pair.of, pair.against) == ("student", "teacher") and (found := pair.score_points.get(leg.metric)):
            return found if leg.sign > 0 else found.negative()
    student, teacher = (_value(evaluation, name, leg.metric) for name in ("student", "teacher"))
    if student is None or teacher is None:
        return None
    return Estimate.alone(leg.sign * 100 * (student - teacher))


def _value(evaluation: EvaluateRecord, model: str, name: str) -> float | None:
    found = metric(name).of_model(evaluation.models[model])
    return found.value if isinstance(found, Estimate) else found


def _example(evaluation: EvaluateRecord) -> str | None:
    """The beginning of the response of the student that repeats itself most, in quotes; what a terminal would act on
    is written out."""
    texts = [each.said["student"] for each in evaluation.generations if each.said.get("student", "").strip()]
    if not texts:
        return None
    worst = max(texts, key=lambda text: repeated_share(text.split()))
    return repr(cut(worst, EXAMPLE_CHARACTERS))
