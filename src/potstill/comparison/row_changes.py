"""Every run against the first, row by row: as a section of the page, and in a line for a terminal."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from potstill.comparison.paired import MEAN_ABSOLUTE_ERROR, MEASURES, Change, Measure, compared
from potstill.comparison.runs import ComparedRun
from potstill.evaluation.kept_rows import ModelRows
from potstill.evaluation.metrics import Unit, name_in_words
from potstill.evaluation.wording import WORDING
from potstill.measure import quality
from potstill.presentation.formats import cut, number, p_value, percent, points_span
from potstill.presentation.tables import Cell, Section, Table
from potstill.records import AnswerKind, Estimate

SEED = 0
"""Of the resamples, which are the same for all that is compared."""
SHOWN_ROWS = 30
"""Rows that are listed of each direction: as many as are read."""
FIRST_MODELS = ("student", "baseline", "teacher")
"""The order in which models are shown; all others follow."""
_NONE = "–"


@dataclass(frozen=True)
class Against:
    """A run against the first: each model that both have."""

    run: ComparedRun
    changes: Mapping[str, Change]

    @property
    def student(self) -> Change:
        return self.changes["student"]


def against_the_first(runs: Sequence[ComparedRun]) -> list[Against]:
    """Every following run against the first, row by row."""
    first, *others = runs
    weights = quality.bootstrap_weights(len(first.rows.ids), seed=SEED)
    own = _models(first)
    found = []
    for run in others:
        theirs = _models(run)
        changes = {
            name: compared(first.rows, own[name], theirs[name], weights, teachers=name == "teacher")
            for name in own
            if name in theirs
        }
        found.append(Against(run, changes))
    return found


def _models(run: ComparedRun) -> dict[str, ModelRows]:
    """The answers of its models, the student first, and of its exported forms by `export/` and their name."""
    models = run.rows.models
    ordered = [name for name in (*FIRST_MODELS, *models) if name in models]
    forms = {f"export/{name}": rows for name, rows in run.forms.models.items()} if run.forms else {}
    return {name: models[name] for name in ordered} | forms


def change_section(first: ComparedRun, each: Against, number_of: int) -> Section:
    """How the models of a run changed against the first, and which rows of its student did."""
    kind = first.rows.kind
    words, measures = WORDING[kind], MEASURES[kind]
    notes = [
        "Differences are this run minus the first, of the same rows, with 95 % bootstrap intervals over resamples of "
        f"rows that are the same for both; shares in {words.points}. A difference counts where its interval leaves out "
        "0."
    ]
    judged = each.student.p is not None
    if judged:
        notes.append(
            "McNemar's exact test looks only at the rows that one of the two models has right: a small p means that "
            "chance alone would hardly make so many of them change one way." + _WHOLE.get(kind, "")
        )
    else:
        notes.append(f"A row is {_FURTHER[kind][0]} where {_FURTHER[kind][1]}.")
    left_out = [f"{change.left_out:,} of the {name}" for name, change in each.changes.items() if change.left_out]
    if left_out:
        notes.append(f"Left out are rows of which only one of the two models read a token: {', '.join(left_out)}.")
    head = [
        Cell("Model", ""),
        *map(Cell, _directions(each.student, kind)),
        *([Cell("McNemar")] if judged else []),
        *(Cell(f"{words_of(measure, first)}{_unit(measure)}") for measure in measures),
    ]
    rows = [
        [
            Cell(name, "name answer"),
            *(Cell(f"{len(places):,}" if change.of_rows else _NONE) for places in (change.worse, change.better)),
            *([Cell(p_value(change.p))] if judged else []),
            *(_difference(measure, change.differences.get(measure.name)) for measure in measures),
        ]
        for name, change in each.changes.items()
    ]
    tables: list[tuple[str | None, Table]] = [(None, Table(head, rows))]
    for title, places in zip(_directions(each.student, kind), (each.student.worse, each.student.better), strict=True):
        if len(places):
            count = f"{len(places):,}" if len(places) <= SHOWN_ROWS else f"{SHOWN_ROWS} of {len(places):,}"
            table = _rows(first, each.run, places[:SHOWN_ROWS].tolist())
            tables.append((f"The student's rows {title}: {count}, {_ORDER[kind]}", table))
    return Section(f"{each.run.name} against {first.name}", f"against-{number_of}", notes, tables, tall=True)


_WHOLE: Mapping[AnswerKind, str] = {
    "multi_label": " A row is right where all its labels are.",
    "tags": " A document is right where all its words are.",
    "target": " A row is right where the whole response is.",
}
_FURTHER: Mapping[AnswerKind, tuple[str, str]] = {
    "regression": ("worse", "this run's number is further from the true one"),
    "text": ("worse", "this run's student is further from its teacher, by the KL in nats a token"),
}
_ORDER: Mapping[AnswerKind, str] = {
    "single_label": "those of which this run is surest first",
    "multi_label": "those of which this run is surest first",
    "tags": "the most words changed first",
    "regression": "the furthest moved first",
    "text": "the furthest moved first",
    "target": "the furthest moved by KL first",
}


def _directions(change: Change, kind: AnswerKind) -> tuple[str, str]:
    return ("worse", "better") if change.p is None else ("right to wrong", "wrong to right")


def words_of(measure: Measure, run: ComparedRun) -> str:
    """What is compared, in words."""
    if measure.name == MEAN_ABSOLUTE_ERROR:
        return "mean absolute error"
    return name_in_words(measure.name, run.rows.kind)


def _unit(measure: Measure, before: str = ", ") -> str:
    unit = {Unit.SHARE: "points", Unit.NATS: "nats"}.get(measure.unit)
    return "" if unit is None else f"{before}{unit}"


def _difference(measure: Measure, found: Estimate | None) -> Cell:
    """A difference, which is news where its interval leaves out zero."""
    if found is None:
        return Cell(_NONE)
    met = None if found.low <= 0 <= found.high else (found.value > 0) == (measure.better == "higher")
    return Cell(difference(measure, found), met=met)


def difference(measure: Measure, found: Estimate) -> str:
    """A difference with its sign and its interval."""
    if measure.unit is Unit.SHARE:
        return points_span(found)
    return f"{_signed(found.value)} ({_signed(found.low)} to {_signed(found.high)})"


def _signed(value: float) -> str:
    return f"{'+' if value > 0 else ''}{number(value)}".replace("-", "−")


def _rows(first: ComparedRun, other: ComparedRun, places: Sequence[int]) -> Table:
    """These rows with what the students of both runs answer."""
    rows, truth = first.rows, first.rows.truth
    assert rows.texts is not None
    names = [run.name for run in (first, other)]
    head = [Cell("Text", ""), *([Cell("truth", "")] if truth else []), *(Cell(name, "") for name in names)]
    students = [run.rows.models["student"] for run in (first, other)]
    shown_rows = [
        [
            Cell(cut(rows.texts[place]), "text", under=rows.ids[place]),
            *([Cell(cut(truth[place]), "name answer")] if truth else []),
            *(_answer(rows.kind, student, place) for student in students),
        ]
        for place in places
    ]
    return Table(head, shown_rows)


def _answer(kind: AnswerKind, student: ModelRows, place: int) -> Cell:
    """What a student answers to a row, and how sure or how far from what it should be."""
    numbers = {name: float(values[place]) for name, values in student.numbers.items()}
    if kind == "regression":
        off = number(abs(numbers["value"] - numbers["true"]))
        return Cell(number(numbers["value"]), "name answer", under=f"off by {off}")
    if kind == "text":
        right = f"{numbers['right_tokens']:,.0f} of {numbers['tokens']:,.0f} tokens"
        return Cell(_kl(numbers), "name answer", under=right)
    assert student.said is not None and student.right is not None
    under = ""
    if "confidence" in numbers:
        under = f"sure to {percent(numbers['confidence'])}"
    elif kind == "tags":
        under = f"{numbers['right_words']:,.0f} of {numbers['words']:,.0f} words"
    elif kind == "target":
        under = _kl(numbers)
    met = bool(student.right[place])
    return Cell(f"{'✓' if met else '✗'} {cut(student.said[place])}", "name answer", met=met, under=under)


def _kl(numbers: Mapping[str, float]) -> str:
    return f"{number(numbers['kl'] / max(1.0, numbers['tokens']))} nats a token"


def change_lines(first: ComparedRun, changes: Sequence[Against]) -> Iterator[str]:
    """For each following run in a line how its student changed."""
    for each in changes:
        change, kind = each.student, first.rows.kind
        moved = zip((change.worse, change.better), _directions(change, kind), strict=True)
        told = ", ".join(f"{len(rows):,} rows {direction}" for rows, direction in moved)
        if change.left_out:
            told += f", {change.left_out:,} left out"
        if change.p is not None:
            told += f" (McNemar {p_value(change.p)})"
        leading = MEASURES[kind][0]
        told += (
            f"; {words_of(leading, first)} {difference(leading, change.differences[leading.name])}{_unit(leading, ' ')}"
        )
        yield f"{each.run.name} against {first.name}: {told}"
