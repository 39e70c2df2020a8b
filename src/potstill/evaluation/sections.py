"""What an evaluation has to tell, as sections of a page."""

from collections.abc import Iterator

from potstill.evaluation.answers import CAME
from potstill.evaluation.calibration_sections import calibration_sections
from potstill.evaluation.findings import margin_unit
from potstill.evaluation.harness_sections import harness_sections
from potstill.evaluation.judged_writing.sections import judgement_sections
from potstill.evaluation.metrics import WRITING, Unit, columns_of, metric, name_in_words
from potstill.evaluation.references import is_beaten
from potstill.evaluation.robustness.sections import robustness_sections
from potstill.evaluation.slice_sections import regression_sections, slice_sections
from potstill.evaluation.speed_sections import speed_sections
from potstill.evaluation.tables import quantities, shown
from potstill.evaluation.wording import WORDING, Wording
from potstill.presentation.formats import (
    cut,
    number,
    number_span,
    p_value,
    percent,
    points,
    points_span,
    readable,
    span,
)
from potstill.presentation.page import PageWords
from potstill.presentation.tables import Cell, Section, Table
from potstill.records import ClassRow, Disagreement, EvaluateRecord, Floor, Reference

_ABOUT = ""
"""The style of what a row is about, and of its head."""


def comparison_sections(evaluation: EvaluateRecord) -> list[Section]:
    """All models side by side, their speed at other sizes, the floors, and what the teacher must be better than."""
    return [_comparison(evaluation), *speed_sections(evaluation), *_floors(evaluation), *_references(evaluation)]


def detail_sections(evaluation: EvaluateRecord) -> list[Section]:
    """Whether differences are real, where they are, and what they look like."""
    return [
        _significance(evaluation),
        *_agreement(evaluation),
        *calibration_sections(evaluation),
        *_classes(evaluation),
        *slice_sections(evaluation),
        *regression_sections(evaluation),
        *([_disagreements(evaluation)] if WORDING[evaluation.answers].queries == "rows" else _generations(evaluation)),
        *robustness_sections(evaluation),
        *harness_sections(evaluation),
    ]


def page_words(evaluation: EvaluateRecord) -> PageWords:
    """What the page calls what depends on the kind of answers."""
    words = WORDING[evaluation.answers]
    return PageWords(
        metric=name_in_words(evaluation.primary_metric),
        accuracy=name_in_words("accuracy", evaluation.answers),
        truncated=words.truncated,
        labelled=words.labelled,
        positions=words.positions,
    )


def _head(*names: str, about: str = "") -> list[Cell]:
    return [Cell(about, _ABOUT), *(Cell(name) for name in names)]


def _comparison(evaluation: EvaluateRecord) -> Section:
    parts = {"tokens of responses": evaluation.test_tokens, "words": evaluation.test_words}
    counted = "".join(f" ({count:,} {what})" for what, count in parts.items() if count is not None)
    measured, words = evaluation.measurement, WORDING[evaluation.answers]
    notes = [
        f"On {evaluation.test_rows:,} test rows{counted} that no model was trained on. Intervals are 95 % bootstrap "
        "intervals over the test rows."
    ]
    after = (
        f"Speed: device {measured.device}, {measured.threads} thread(s), {measured.rows} {words.queries} timed one by "
        f"one after {measured.warmup} to warm up, in {measured.rounds} alternated rounds, each in a process of its "
        f"own, of which each model's fastest counts; throughput at batch size {measured.batch_size_throughput}."
    )
    if measured.energy is not None:
        after += f" {measured.energy}"
    if "baseline" in evaluation.models:
        after += " The baseline is the same small model trained without the teacher."
    if CAME in evaluation.models:
        after += f" The model {CAME!r} is the student as it came, before any training."
    rows = [[Cell(each.name, _ABOUT), *map(Cell, each.values)] for each in quantities(evaluation)]
    table = Table(_head(*evaluation.models), rows)
    return Section("Comparison", "comparison", notes, [(None, table)], after=after)


def _floors(evaluation: EvaluateRecord) -> Iterator[Section]:
    if not evaluation.floors:
        return
    columns = _floor_columns(evaluation)
    rows = [
        [
            Cell(readable(name.removesuffix("_labels")), _ABOUT),
            Cell(f"{floor.labelled_rows:,}"),
            *(Cell(percent(floor.scores_by_name.get(column))) for column in columns),
        ]
        for name, floor in evaluation.floors.items()
    ]
    names = [name_in_words(column, evaluation.answers) for column in columns]
    head = _head("rows", *names, about="Trained on the labelled rows of")
    yield Section(
        f"The floor: TF-IDF with {WORDING[evaluation.answers].floor} regression", tables=[(None, Table(head, rows))]
    )


def floor_values(evaluation: EvaluateRecord, floor: Floor) -> list[tuple[str, float | None]]:
    """What a floor reaches in each metric, by the metric's words."""
    values = floor.scores_by_name
    return [(name_in_words(column, evaluation.answers), values.get(column)) for column in _floor_columns(evaluation)]


def _floor_columns(evaluation: EvaluateRecord) -> list[str]:
    return [each.name for each in columns_of(evaluation.answers)]


def _references(evaluation: EvaluateRecord) -> Iterator[Section]:
    if not evaluation.references:
        return
    head = [*_head(about="On the same test rows"), Cell("by", _ABOUT), Cell("reaches"), Cell("teacher")]
    rows = [_reference(each) for each in evaluation.references]
    table = Table([*head, Cell("teacher's lead (95 % interval)")], rows)
    yield Section("What the teacher must be better than", tables=[(None, table)])


def _reference(each: Reference) -> list[Cell]:
    as_share = metric(each.metric).unit is Unit.SHARE
    shown = percent if as_share else number
    lead = (points_span if as_share else number_span)(each.margin)
    return [
        Cell(each.name, _ABOUT),
        Cell(name_in_words(each.metric), _ABOUT),
        Cell(shown(each.value)),
        Cell(shown(each.teacher)),
        Cell(f"{lead} {margin_unit(each.metric)}", met=is_beaten(each)),
    ]


def _significance(evaluation: EvaluateRecord) -> Section:
    words, columns = WORDING[evaluation.answers], columns_of(evaluation.answers)
    with_p = any(each.mcnemar_p is not None for each in evaluation.comparisons)
    note = f"Differences are in {words.points}, with their 95 % intervals."
    if with_p:
        note += (
            " McNemar's exact test looks only at the rows on which one of two models is right. A small p means that "
            "chance alone would hardly make the difference."
        )
    names = [name_in_words(each.name, evaluation.answers) for each in columns]
    names += ["only the first right", "only the second right"] if words.right_or_wrong else []
    names += ["McNemar"] if with_p else []
    rows = []
    for each in evaluation.comparisons:
        cells = [points_span(each.points_by_name.get(column.name)) for column in columns]
        if words.right_or_wrong:
            cells += [str(each.only_of_right), str(each.only_against_right)]
        cells += [p_value(each.mcnemar_p)] if with_p else []
        rows.append([Cell(f"{each.of} − {each.against}", "name"), *map(Cell, cells)])
    table = Table(_head(*names, about="Difference"), rows)
    return Section("Are the differences real?", "significance", [note], [(None, table)])


def _agreement(evaluation: EvaluateRecord) -> Iterator[Section]:
    if not evaluation.agreement:
        return
    words = WORDING[evaluation.answers]
    own = words.decisions != "rows"
    notes = ["Each decision about a label counts by itself, and so does the KL."] if own else []
    rows = [
        [
            Cell(name, _ABOUT),
            Cell(f"{percent(each.all_rows.value)} ({span(each.all_rows)})"),
            Cell(f"{percent(each.teacher_wrong)} of {each.teacher_wrong_rows}"),
            Cell(number(each.kl_from_teacher)),
        ]
        for name, each in evaluation.agreement.items()
    ]
    head = _head(f"on all {words.decisions}", "where the teacher is wrong", "KL from the teacher, nats", about="Model")
    yield Section("Agreement with the teacher", notes=notes, tables=[(None, Table(head, rows))])


def _classes(evaluation: EvaluateRecord) -> Iterator[Section]:
    words = WORDING[evaluation.answers]
    if words.classes is None:
        return
    note = f"{words.recognised}, the largest drop from teacher to student first. Where there are few, one moves it far."
    head = _head(words.rows_of_class, "teacher", "student", "drop, points", "baseline", about="Class")
    rows = [
        [
            Cell(row.label, "name"),
            Cell(str(row.rows)),
            Cell(percent(row.teacher_accuracy)),
            Cell(percent(row.student_accuracy)),
            Cell(points(drop)),
            Cell(percent(row.baseline_accuracy)),
        ]
        for row, drop in by_drop(evaluation.classes)
    ]
    yield Section("Classes", "classes", [note], [(None, Table(head, rows))], tall=True)


def by_drop(classes: list[ClassRow]) -> list[tuple[ClassRow, float | None]]:
    """Classes with the points that the student loses against the teacher, the largest loss first."""
    rows = [(row, _drop(row)) for row in classes]
    return sorted(rows, key=lambda pair: (pair[1] is None, -(pair[1] or 0.0), pair[0].label))


def _drop(row: ClassRow) -> float | None:
    if row.teacher_accuracy is None or row.student_accuracy is None:
        return None
    return 100 * (row.teacher_accuracy - row.student_accuracy)


def _disagreements(evaluation: EvaluateRecord) -> Section:
    words, samples = WORDING[evaluation.answers], evaluation.disagreements
    notes = []
    if evaluation.test_words is not None:
        notes = [
            "Of each document the first span that one of them finds and the other does not, with the words around it."
        ]
    head = [Cell(name, _ABOUT) for name in ("Text", "truth", "teacher", "student", "baseline")]
    rows = [
        [
            Cell(cut(each.text), "text", under=each.id),
            Cell(each.truth, "name answer"),
            *(_answer(each, answer, words) for answer in (each.teacher, each.student, each.baseline)),
        ]
        for each in samples
    ]
    return Section(
        f"Where teacher and student {words.disagree}",
        "disagreements",
        notes,
        [(None, Table(head, rows))] if samples else [],
        tall=True,
        summary=f"{len(samples)} samples",
        empty="No samples.",
    )


def _answer(each: Disagreement, answer: str | None, words: Wording) -> Cell:
    if answer is None:
        return Cell("–", "name answer")
    if not words.right_or_wrong:
        return Cell(answer, "name answer")
    right = answer == each.truth
    return Cell(f"{'✓' if right else '✗'} {answer}", "name answer", met=right)


def _generations(evaluation: EvaluateRecord) -> list[Section]:
    tables = []
    for sample in evaluation.generations:
        # A list, for a teacher can be called "asked".
        shown = [("asked", sample.prompt), ("true response", sample.truth), *sample.said.items()]
        rows = [[Cell(name, _ABOUT), Cell(text, "text", as_is=True)] for name, text in shown]
        tables.append((sample.id, Table([], rows)))
    note = "The likeliest tokens after the same prompts of test rows, chosen by a hash and not by hand."
    samples = Section("What the models write", "generations", [note], tables, empty="No samples.")
    return [samples, *_writing(evaluation), *judgement_sections(evaluation)]


def _writing(evaluation: EvaluateRecord) -> Iterator[Section]:
    """What all models write, counted over more prompts than are shown."""
    if not evaluation.written_prompts:
        return
    models = evaluation.models.values()
    rows = [
        [Cell(each.title or each.words, _ABOUT), *(Cell(shown(each, each.of_model(model))) for model in models)]
        for each in map(metric, WRITING)
    ]
    note = (
        f"After {evaluation.written_prompts} prompts, in the teacher's tokens, with 95 % bootstrap intervals over the "
        "prompts. 4-grams that repeat: the share of the runs of four tokens of a response that occurred in it before. "
        "Distinct 2-grams: how many of the runs of two tokens of all responses together are unlike each other."
    )
    yield Section("What it writes", notes=[note], tables=[(None, Table(_head(*evaluation.models), rows))])
