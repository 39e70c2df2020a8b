"""Where among the test rows the student falls behind, and which rows it lost, as sections of a page."""

from collections.abc import Iterator

from potstill.evaluation.slices import FEWEST_ROWS_OF_A_SLICE, MOST_VALUES
from potstill.presentation.formats import cut, percent, points_span
from potstill.presentation.tables import Cell, Section, Table
from potstill.records import AnswerKind, EvaluateRecord, RegressionRow

_RIGHT: dict[AnswerKind, str] = {
    "single_label": "rows that are right",
    "multi_label": "rows with all labels right",
    "tags": "words that are right, over whole documents",
    "text": "tokens at which the likeliest is the true one, over whole rows",
    "target": "rows whose response is right to the letter",
}
"""Of what a slice has a share."""
_LOST: dict[AnswerKind, str] = {
    "multi_label": " A row is right where all its labels are; how sure a model is of them is the product over labels.",
    "tags": " A document is right where all its words are; shown is the word of whose wrong tag the student is surest.",
    "target": " How sure a model is of a whole response is not measured.",
}


def slice_sections(evaluation: EvaluateRecord) -> Iterator[Section]:
    """All slices, the worst first."""
    if not evaluation.slices:
        return
    notes = [
        f"Shares of {_RIGHT[evaluation.answers]}, in parts of the test rows; drops are teacher minus student in "
        "points, with 95 % intervals over the same resamples of rows. The worst first: by the lower end of that "
        f"interval. Slices of fewer than {FEWEST_ROWS_OF_A_SLICE} rows are small and come last, for their intervals "
        f"are too narrow. Of a field with more than {MOST_VALUES} values the rarest are one slice. Of many slices, "
        "some are worse by chance."
    ]
    head = [Cell("Slice", ""), Cell("by", ""), *map(Cell, ("rows", "teacher", "student", "drop, points", "baseline"))]
    rows = [
        [
            Cell(cut(each.name), "name"),
            Cell(each.field or each.by, "name"),
            Cell(f"{each.rows:,}{' (small)' if each.small else ''}"),
            Cell(percent(each.teacher_accuracy)),
            Cell(percent(each.student_accuracy)),
            Cell(points_span(each.drop_points)),
            Cell(percent(each.baseline_accuracy)),
        ]
        for each in evaluation.slices
    ]
    yield Section("Slices", "slices", notes, [(None, Table(head, rows))], tall=True)


def regression_sections(evaluation: EvaluateRecord) -> Iterator[Section]:
    """The rows that the student lost, and how many it gained."""
    found = evaluation.regressions
    if found is None:
        return
    notes = [
        f"The teacher alone has {found.lost:,} of {evaluation.test_rows:,} test rows right, and the student alone "
        f"{found.gained:,}.{_LOST.get(evaluation.answers, '')}"
    ]
    if found.rows:
        notes.append("Listed are those of whose wrong answer the student is surest, the rows of the worst slice first.")
    head = [Cell(name, "") for name in ("Text", "truth", "teacher", "student", "baseline", "slice")]
    rows = [
        [
            Cell(cut(each.text), "text", under=each.id),
            Cell(each.truth, "name answer"),
            *_answers(each),
            Cell("–" if each.slice is None else cut(each.slice), "name"),
        ]
        for each in found.rows
    ]
    yield Section(
        "Regressions",
        "regressions",
        notes,
        [(None, Table(head, rows))] if rows else [],
        tall=True,
        summary=f"{len(rows)} of {found.lost:,} rows",
    )


def _answers(each: RegressionRow) -> list[Cell]:
    return [
        _answer(each.teacher, each.teacher_confidence, right=True),
        _answer(each.student, each.student_confidence, right=False),
        # What is right is what the teacher answers, in whatever white space.
        _answer(each.baseline, None, right=each.baseline in (each.truth, each.teacher)),
    ]


def _answer(answer: str | None, confidence: float | None, *, right: bool) -> Cell:
    if answer is None:
        return Cell("–", "name answer")
    sure = "" if confidence is None else f"sure to {percent(confidence)}"
    return Cell(f"{'✓' if right else '✗'} {answer}", "name answer", met=right, under=sure)
