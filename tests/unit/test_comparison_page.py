"""Several runs on a page and in a terminal: what is told of them, and that hostile text stays text."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from potstill.comparison.row_changes import SHOWN_ROWS, against_the_first, change_lines, change_section
from potstill.comparison.runs import ComparedRun, _on_the_rows_of
from potstill.comparison.sections import overview, recipe_differences, sections
from potstill.evaluation.kept_rows import KeptRows, ModelRows
from potstill.presentation.page import render_comparison
from potstill.presentation.terminal import comparison_table
from potstill.records import AnswerKind, Artefact, ExportRecord
from tests.unit.finished_run import HOSTILE, evaluation, gate, model
from tests.unit.test_paired_rows import ROWS, rows_of, unread
from tests.unit.test_report import parsed


def answers(wrong: set[int], *, hostile: str = "") -> ModelRows:
    """Those of a classifier that is wrong about these rows."""
    right = np.array([row not in wrong for row in range(ROWS)])
    said = [f"metal {hostile}" if row in wrong else f"fruit {hostile}" for row in range(ROWS)]
    return ModelRows(said, right, {"confidence": np.linspace(0.5, 0.9, ROWS)})


def run(name: str, wrong: set[int], *, passed: bool = True, hostile: str = "", **changes: Any) -> ComparedRun:
    rows = KeptRows(
        kind="single_label",
        ids=[f"row-{row} {hostile}" for row in range(ROWS)],
        digests=[f"{row:064x}" for row in range(ROWS)],
        models={"teacher": answers({0}), "student": answers(wrong, hostile=hostile), "baseline": answers({1, 2})},
        texts=[f"text {row} {hostile}" for row in range(ROWS)],
        truth=[f"fruit {hostile}"] * ROWS,
    )
    form = Artefact(
        kind="onnx",
        name="onnx-int8",
        folder="export/onnx-int8",
        size_bytes=23_400_000,
        max_logit_difference=0.1,
        passed=passed,
        model=model(0.8, 1.5, 5_000_000),
        why="" if passed else f"Its outputs differ {hostile}",
    )
    found = ComparedRun(
        name=name,
        evaluation=evaluation(with_baseline=True, hostile=hostile),
        rows=rows,
        forms=replace(rows, models={"onnx-int8": answers({3})}, texts=None, truth=None),
        gate=gate(passed),
        export=ExportRecord(
            skipped=False, artefacts=[form], rivals=[form.model_copy(update={"name": "teacher onnx-int8"})]
        ),
        teacher="a",
        recipe={"train": {"epochs": 3}, "note": hostile},
        processor="a processor",
    )
    return replace(found, **changes)


def page_of(*runs: ComparedRun) -> str:
    return render_comparison("Runs", sections(runs, against_the_first(runs)))


def test_hostile_text_stays_text() -> None:
    first = run("a", {1}, hostile=HOSTILE)
    second = run(f"b {HOSTILE}", {2, 3}, passed=False, hostile=HOSTILE, recipe={"note": f"other {HOSTILE}", HOSTILE: 1})
    page = page_of(first, second)
    elements = parsed(page)
    assert elements.closed()
    assert not {"script", "link", "iframe", "object", "embed", "img", "image", "form", "base"} & set(elements.tags)
    assert not any(name.startswith("on") or name in {"src", "href"} for name, _ in elements.attributes)
    assert elements.text.count("<script>alert(1)</script>") > 10 and "{{ 7 * 7 }} {% raw %}" in elements.text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]", page)
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert ("content", policy) in elements.attributes and page.index(policy) < page.index("<title>")
    assert "prefers-color-scheme: dark" in page and "@media print" in page


def test_every_head_says_what_it_is_the_head_of() -> None:
    page = page_of(run("a", {1}), run("b", {2, 3}))
    heads = re.findall(r"<th[ >][^>]*", page)
    assert len(heads) > 30 and all('scope="' in head for head in heads)
    assert {re.search(r'scope="(\w+)"', head)[1] for head in heads} == {"col", "row"}  # type: ignore[index]


def test_each_section_tells_of_all_runs() -> None:
    runs = run("a", {1}), run("b", {2, 3}, passed=False), run("c", {1}, gate=None, export=None, forms=None)
    found = {section.anchor: section for section in sections(runs, against_the_first(runs))}
    assert list(found) == ["runs", "against-1", "against-2", "models", "artefacts", "recipes"]
    text = parsed(page_of(*runs)).text
    missed = "misses min retention, min agreement"
    for told in ("✓ passed", "✗ failed", "not judged", missed, "c: nothing was exported."):
        assert told in text, told
    models = dict(found["models"].tables)
    assert list(models) == ["student", "baseline", "teacher"]
    assert [cell.text for cell in models["student"].head] == ["", "a", "b", "c"]
    accuracies = {name: table.rows[0][1].text[:6] for name, table in models.items()}
    assert (accuracies["student"], accuracies["teacher"]) == ("81.2 %", "83.4 %")
    ((_, artefacts),) = found["artefacts"].tables
    assert [[cell.text for cell in row[:3]] for row in artefacts.rows] == [
        ["a", "onnx-int8", "✓ passed"],
        ["a", "teacher onnx-int8", "✓ passed"],
        ["b", "onnx-int8", "✗ missed"],
        ["b", "teacher onnx-int8", "✗ missed"],
    ]
    assert found["recipes"].tables == [] and "The recipes are the same." in text


def test_the_rows_that_changed_are_listed_with_both_answers() -> None:
    runs = run("a", {1}), run("b", {2, 3})
    (each,) = against_the_first(runs)
    assert list(each.changes) == ["student", "baseline", "teacher", "export/onnx-int8"]
    assert (each.student.worse.tolist(), each.student.better.tolist()) == ([3, 2], [1])
    assert not len(each.changes["export/onnx-int8"].worse)
    section = change_section(runs[0], each, 1)
    assert section.title == "b against a"
    (_, counts), (lost, worse), (gained, better) = section.tables
    assert [cell.text for cell in counts.rows[0][:4]] == ["student", "2", "1", "p = 1.000"]
    assert lost == "The student's rows right to wrong: 2, those of which this run is surest first"
    assert gained is not None and gained.startswith("The student's rows wrong to right: 1,")
    assert [cell.text for cell in worse.head] == ["Text", "truth", "a", "b"]
    # Rows 3 and 2 of confidences that rise from 0.5 to 0.9 over 40 rows.
    shown = [[(cell.text, cell.under, cell.met) for cell in row] for row in worse.rows]
    assert shown[0] == [
        ("text 3", "row-3 ", None),
        ("fruit", "", None),
        ("✓ fruit", "sure to 53.1 %", True),
        ("✗ metal", "sure to 53.1 %", False),
    ]
    assert shown[1][0][0] == "text 2" and better.rows[0][0].text == "text 1"
    assert list(change_lines(runs[0], [each])) == [
        "b against a: 2 rows right to wrong, 1 rows wrong to right (McNemar p = 1.000); accuracy −2.5 "
        + change_line_interval(each.student.differences["accuracy"])
    ]


def change_line_interval(found: Any) -> str:
    low, high = (f"{value:+.1f}".replace("-", "−") for value in (found.low, found.high))
    return f"({low} to {high}) points"


def test_of_many_rows_the_first_are_listed_and_all_are_counted() -> None:
    runs = run("a", set()), run("b", set(range(5, ROWS)))
    section = change_section(runs[0], against_the_first(runs)[0], 1)
    name, table = section.tables[1]
    assert name is not None and f": {SHOWN_ROWS} of {ROWS - 5}, " in name
    assert len(table.rows) == SHOWN_ROWS and table.rows[0][0].text == f"text {ROWS - 1}"
    assert section.tables[0][1].rows[0][1].text == str(ROWS - 5) and len(section.tables) == 2


def test_a_difference_is_news_where_its_interval_leaves_out_zero() -> None:
    def cells(first: set[int], second: set[int]) -> list[bool | None]:
        runs = run("a", first), run("b", second)
        section = change_section(runs[0], against_the_first(runs)[0], 1)
        return [cell.met for cell in section.tables[0][1].rows[0]]

    many = set(range(20))
    assert cells(set(), many)[4:] == [False, False] and cells(many, set())[4:] == [True, True]
    assert cells({1}, {2})[4] is None and cells(set(), set()) == [None] * 6


OF_TOKENS = ["KL from the teacher, nats", "cross-entropy, nats", "accuracy at the next token, points"]


def two_runs(kind_rows: KeptRows, first: ModelRows, second: ModelRows) -> tuple[ComparedRun, ComparedRun]:
    """Runs of which each has a student alone."""
    each = [replace(kind_rows, models={"student": student}) for student in (first, second)]
    return run("a", set(), rows=each[0], forms=None), run("b", set(), rows=each[1], forms=None)


@pytest.mark.parametrize(
    ("kind", "directions", "measures", "shown"),
    [
        ("regression", ("worse", "better"), ["mean absolute error", "R², points"], r"^[\d.]+ off by [\d.]+$"),
        (
            "text",
            ("worse", "better"),
            OF_TOKENS,
            r"^[\d.]+ nats a token \d+ of \d+ tokens$",
        ),
        (
            "target",
            ("right to wrong", "wrong to right"),
            ["exact match, points", *OF_TOKENS],
            r"^✓ a [\d.]+ nats a token$",
        ),
        (
            "tags",
            ("right to wrong", "wrong to right"),
            ["entity F1, points", "accuracy, points"],
            r"^✓ a (\d+) of \1 words$",
        ),
        (
            "multi_label",
            ("right to wrong", "wrong to right"),
            ["micro-F1, points", "all labels right, points"],
            r"^✓ a sure to [\d.]+ %$",
        ),
    ],
)
def test_each_kind_of_answer_is_told_in_its_words(
    kind: AnswerKind, directions: tuple[str, str], measures: list[str], shown: str
) -> None:
    runs = two_runs(*rows_of(kind))
    (each,) = against_the_first(runs)
    section = change_section(runs[0], each, 1)
    (_, counts), (worse, table), (better, _) = section.tables
    judged = ["McNemar"] if directions[0] != "worse" else []
    assert [cell.text for cell in counts.head] == ["Model", *directions, *judged, *measures]
    assert worse and better and directions[0] in worse and directions[1] in better
    answer = table.rows[0][-2]
    assert re.match(shown, f"{answer.text} {answer.under}"), answer
    assert any("McNemar" in note for note in section.notes) == bool(judged)
    (line,) = change_lines(runs[0], [each])
    assert f"rows {directions[0]}, " in line and measures[0].replace(", points", "").replace(", nats", "") in line
    told = counts.rows[0][3 + len(judged)].text
    assert line.endswith(f" {told}{measures[0].partition(',')[2]}")


def test_of_teachers_no_distance_from_themselves_is_shown() -> None:
    rows, first, second = rows_of("text")
    runs = [
        run(name, set(), rows=replace(rows, models={"teacher": each, "student": each}), forms=None)
        for name, each in (("a", first), ("b", second))
    ]
    (each,) = against_the_first(runs)
    ((_, table), (_, worse), *_) = change_section(runs[0], each, 1).tables
    kl, tokens = (float(first.numbers[name][each.student.worse[0]]) for name in ("kl", "tokens"))
    assert worse.rows[0][-2].text == f"{kl / tokens:.4g} nats a token"
    student, teacher = table.rows
    assert [row[0].text for row in table.rows] == ["student", "teacher"], "the student comes first"
    assert teacher[3].text == "–" != student[3].text and teacher[4].text == student[4].text


def test_of_teachers_no_row_is_further_from_themselves() -> None:
    rows, first, second = rows_of("text")
    runs = [
        run(name, set(), rows=replace(rows, models={"teacher": each, "student": each}), forms=None)
        for name, each in (("a", first), ("b", second))
    ]
    ((_, table), *_) = change_section(runs[0], against_the_first(runs)[0], 1).tables
    student, teacher = ([cell.text for cell in row[1:3]] for row in table.rows)
    assert teacher == ["–", "–"] and all(int(count) > 3 for count in student)
    # Where rows are right or wrong, those of teachers are too.
    runs = [run("a", {1}), run("b", {2})]
    runs[1] = replace(runs[1], rows=replace(runs[1].rows, models=runs[1].rows.models | {"teacher": answers({3})}))
    ((_, table), *_) = change_section(runs[0], against_the_first(runs)[0], 1).tables
    assert [cell.text for cell in table.rows[2][:3]] == ["teacher", "1", "1"]


@pytest.mark.parametrize("kind", ["text", "target"])
def test_rows_that_one_run_did_not_read_are_left_out_and_counted(kind: AnswerKind) -> None:
    rows, first, second = rows_of(kind)
    runs = two_runs(rows, first, second)
    notes = change_section(runs[0], against_the_first(runs)[0], 1).notes
    assert not any("Left out" in note for note in notes)
    runs = two_runs(rows, first, unread(second, {5, 7, 11}))
    (each,) = against_the_first(runs)
    section = change_section(runs[0], each, 1)
    left_out = [note for note in section.notes if "Left out" in note]
    assert left_out == ["Left out are rows of which only one of the two models read a token: 3 of the student."]
    assert ", 3 left out" in next(change_lines(runs[0], [each]))
    assert not {5, 7, 11} & {*each.student.worse.tolist(), *each.student.better.tolist()}


@pytest.mark.parametrize("with_forms", [False, True])
def test_a_run_is_put_into_the_order_of_the_first_with_its_forms(with_forms: bool) -> None:
    first, other = run("a", {1}), run("b", {2, 3})
    places = np.random.default_rng(0).permutation(ROWS)
    assert other.forms is not None
    forms = other.forms.of(places) if with_forms else None
    found = _on_the_rows_of(first, replace(other, rows=other.rows.of(places), forms=forms))
    assert found.rows.ids == first.rows.ids and found.rows.digests == first.rows.digests
    assert found.rows.truth == other.rows.truth and found.rows.texts == other.rows.texts
    every = [(found.rows, other.rows)]
    if with_forms:
        assert found.forms is not None and found.forms.ids == first.rows.ids
        every.append((found.forms, other.forms))
    else:
        assert found.forms is None
    for one, two in every:
        assert one.digests == first.rows.digests and list(one.models) == list(two.models)
        for name, each in two.models.items():
            assert one.models[name].said == each.said
            np.testing.assert_array_equal(one.models[name].right, each.right)
            np.testing.assert_array_equal(one.models[name].numbers["confidence"], each.numbers["confidence"])
    assert _on_the_rows_of(first, other) is other


def test_lower_is_better_of_errors_and_distances() -> None:
    rows, first, second = rows_of("regression")
    far = replace(second, numbers=dict(second.numbers) | {"value": second.numbers["true"] + 50})
    runs = two_runs(rows, first, far)
    there, back = (against_the_first(each)[0] for each in (runs, runs[::-1]))
    assert [change_section(runs[0], each, 1).tables[0][1].rows[0][3].met for each in (there, back)] == [False, True]


def test_what_stands_in_the_way_of_a_comparison_is_said() -> None:
    plain = parsed(page_of(run("a", {1}), run("b", {1}))).text
    assert "teachers are not the same" not in plain and "unlike places" not in plain and "by chance" not in plain
    text = parsed(page_of(run("a", {1}), run("b", {1}, teacher="b", processor=None), run("c", {1}))).text
    assert "The teachers are not the same" in text and "one in twenty" in text
    assert "unlike places, so they do not compare: a on a processor, device cpu, 1 thread(s); b on an unknown" in text
    rows, first, second = rows_of("text")
    cut = replace(second, numbers=dict(second.numbers) | {"tokens": second.numbers["tokens"] + 1})
    for other, told in ((second, False), (cut, True)):
        notes = sections(two_runs(rows, first, other), [])[0].notes
        assert any("other tokens of the same rows" in note for note in notes) is told


@pytest.mark.parametrize(
    ("recipes", "expected"),
    [
        ([{"a": 1}, {"a": 1}], {}),
        ([{"a": 1}, {"a": 1.0}], {"a": ["1", "1.0"]}),
        ([{"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": None}}], {"a.c": ["2", "null"]}),
        ([{"l": [{"k": "x"}]}, {"l": [{"k": "x"}, {"k": "y"}]}], {"l[1].k": ["–", '"y"']}),
        ([{"a": []}, {"a": {}}, {"b": 1}], {"a": ["[]", "{}", "–"], "b": ["–", "–", "1"]}),
        ([{"b": 1, "a": True}, {"a": False, "b": 2}], {"b": ["1", "2"], "a": ["true", "false"]}),
    ],
)
def test_recipes_differ_key_by_key(recipes: list[dict[str, Any]], expected: dict[str, list[str]]) -> None:
    found = recipe_differences(recipes)
    assert found == expected and list(found) == list(expected)


def test_the_terminal_shows_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    runs = run("[bold]a[/bold]", {1}), run("b\x1b[31m", {2, 3}, passed=False)
    comparison_table(overview(runs), change_lines(runs[0], against_the_first(runs)))
    out = capsys.readouterr().out
    assert "[bold]a[/bold]" in out and "b[U+001B][31m" in out and "\x1b" not in out
    assert "✗ failed" in out and "81.2 % (79.5–82.8)" in out
