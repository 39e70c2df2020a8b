"""Who is as good as the teacher in what it writes, as a section of the page and rows of the comparison."""

from collections.abc import Callable, Iterator

from potstill.evaluation.metrics import metric
from potstill.presentation.formats import share
from potstill.presentation.tables import Cell, Quantity, Section, Table
from potstill.records import Estimate, EvaluateRecord, ModelJudgement, WritingJudgement

METRICS = ("written_accuracy", "as_good_as_teacher")
_BY = {
    "exact_match": "reads as the right answer does",
    "regular_expression": "holds what the pattern finds in the right answer",
    "math_verify": "has a mathematical answer that equals the right one (math-verify)",
}


def judgement_quantities(evaluation: EvaluateRecord) -> list[Quantity]:
    """The shares of each model that a judge gives, where there is one."""
    found = []
    for each in map(metric, METRICS):
        values = [each.in_record(evaluation, name) for name in evaluation.models]
        if any(value is not None for value in values):
            found.append(Quantity(f"{each.title} (95 % interval)", [_share(value) for value in values], brief=True))
    return found


def judgement_sections(evaluation: EvaluateRecord) -> Iterator[Section]:
    judgement = evaluation.judgement
    if judgement is None:
        return
    rows = [[Cell(each.name, ""), *map(Cell, each.values)] for each in judgement_quantities(evaluation)]
    for name, of in _COUNTS.items():
        if judgement.compares or name != _DISAGREED:
            models = [judgement.models.get(model) for model in evaluation.models]
            cells = [
                "–" if each is None or (model == "teacher" and name == _OUTCOMES) else of(each)
                for model, each in zip(evaluation.models, models, strict=True)
            ]
            rows.append([Cell(name, ""), *map(Cell, cells)])
    head = [Cell("", ""), *map(Cell, evaluation.models)]
    yield Section(
        "As good as the teacher in what it writes", notes=[_note(judgement)], tables=[(None, Table(head, rows))]
    )


def _note(judgement: WritingJudgement) -> str:
    begin = f"What was written after {judgement.prompts} prompts, judged by {judgement.kind}. "
    if judgement.compares:
        return begin + (
            f"The model {judgement.model} compared each answer with the teacher's without knowing whose they are, in "
            "both orders: what it says of both counts, equal texts are as good, and what it says otherwise once they "
            "change places is not judged. As good is the share of wins and ties. " + _END
        )
    return begin + (
        f"An answer is right that {_BY.get(judgement.kind, 'is found right')}. As good as the teacher's: of the "
        "answers that the teacher has right, the share that the model has right too. Wins are answers that it has "
        "right and the teacher has not, losses the other way round. " + _END
    )


_END = "What could not be judged counts nowhere. Intervals are Wilson's."
_DISAGREED = "Said otherwise in the other order"
_OUTCOMES = "Wins / ties / losses against the teacher"
_COUNTS: dict[str, Callable[[ModelJudgement], str]] = {
    "Judged": lambda each: str(each.judged),
    _OUTCOMES: lambda each: f"{each.wins} / {each.ties} / {each.losses}",
    _DISAGREED: lambda each: "–" if each.orders_disagreed is None else str(each.orders_disagreed),
    "Not judged": lambda each: _reasons(each),
}


def _reasons(each: ModelJudgement) -> str:
    return ", ".join(f"{count}: {reason}" for reason, count in each.not_judged.items()) or "0"


def _share(value: Estimate | float | None) -> str:
    return share(value) if isinstance(value, Estimate) else "–"
