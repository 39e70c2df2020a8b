"""What `check` shows of rows: fields that are not read, rows that are skipped, classes with counts and an example."""

import json
from pathlib import Path
from typing import Any

import pytest

from potstill.presentation.terminal import CLASSES_SHOWN, plan_lines
from potstill.recipe.yaml_file import load_recipe
from potstill.records import ClassCount, PlanRecord
from potstill.stages.class_counts import doubts_about_classes
from potstill.stages.inputs import read_inputs
from potstill.stages.plan import make_plan
from tests.tagged_project import make_tagged_project


def planned(project: Path, *changes: str) -> PlanRecord:
    recipe = load_recipe(project / "recipe.yaml", list(changes))
    return make_plan(recipe, read_inputs(recipe, project), project / "run")


def changed(path: Path, **fields: Any) -> list[dict[str, Any]]:
    """Give each row of a file these fields; `null` in place of one takes it away again."""
    rows = [json.loads(line) | fields for line in path.read_text().splitlines()]
    path.write_text("\n".join(map(json.dumps, rows)))
    return rows


def test_check_shows_what_is_not_read_and_what_is_skipped(project: Path) -> None:
    changed(project / "data/train.jsonl", url="x", weight=2)
    with (project / "data/train.jsonl").open("a") as file:
        file.write('\n{"text": 3}\n{"text": "cut')
    plan = planned(project, "data.ignore=[weight, wieght]", "data.on_error=skip")
    train = plan.splits["train"]
    assert (train.unread, train.ignored, train.skipped, train.read) == ({"url": 90}, {"weight": 90}, 2, 92)
    lines = "\n".join(plan_lines(plan))
    assert "not read: url (90)" in lines and "left out, as data.ignore says: weight (90)" in lines
    assert "dropped 2 that cannot be read" in lines
    assert 'train.jsonl: line 91 "text": expected text, found int' in lines
    assert "warning: data.ignore: no row has wieght." in lines
    assert not any("cannot be read and are skipped" in warning for warning in plan.warnings), "2 of 92 are few"
    with (project / "data/train.jsonl").open("a") as file:
        file.write("\n{}" * 5)
    plan = planned(project, "data.ignore=[weight]", "data.on_error=skip")
    assert (
        "train: 7 of 97 rows (7%) cannot be read and are skipped; the others may not stand for them." in plan.warnings
    )
    assert PlanRecord.model_validate_json(plan.model_dump_json()) == plan


def test_check_warns_of_a_title_that_is_not_read(project: Path) -> None:
    for name in ("train", "test"):
        path = project / f"data/{name}.jsonl"
        rows = [json.loads(line) | {"title": f"of {n}"} for n, line in enumerate(path.read_text().splitlines())]
        path.write_text("\n".join(map(json.dumps, rows)))
    (told,) = (warning for warning in planned(project).warnings if "title" in warning)
    assert told.startswith('test, train: "title" is not read, and may belong to the text.')
    assert not any("title" in warning for warning in planned(project, "data.ignore=[title]").warnings)


def test_check_shows_each_class_with_counts_and_an_example(project: Path) -> None:
    rows = changed(project / "data/train.jsonl")
    plan = planned(project)
    counts = {name: sum(row["label"] == name for row in rows) for name in plan.labels}
    assert {each.name: each.counts["train"] for each in plan.classes} == counts
    assert [each.counts["train"] for each in plan.classes] == sorted(counts.values(), reverse=True)
    assert sum(each.counts["test"] for each in plan.classes) == plan.splits["test"].labelled
    first = plan.classes[0]
    example = next(row["text"] for row in rows if row["label"] == first.name)
    assert first.example is not None and example.startswith(first.example.removesuffix("..."))
    line = next(line for line in plan_lines(plan) if line.split()[0] == first.name)
    assert f"{first.counts['train']:,} train" in line and line.endswith(f": {first.example}")


def test_an_example_is_one_line_that_commands_no_terminal(project: Path) -> None:
    rows = changed(project / "data/train.jsonl")
    rows[0]["text"] = "\x1b[31mred\n\n" + "long " * 50
    (project / "data/train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (example,) = [each.example for each in planned(project).classes if each.name == rows[0]["label"]]
    assert example == "\ufffd[31mred " + "long " * 9 + "lon..." and len(example) == 60


def test_entities_are_counted_by_their_kinds(tmp_path: Path, teacher_folder: Path) -> None:
    project = make_tagged_project(tmp_path, teacher_folder)
    plan = planned(project)
    rows = [json.loads(line) for line in (project / "data/train.jsonl").read_text().splitlines()]
    tags = [tag for row in rows for tag in row["tags"] or ()]
    assert {each.name: each.counts["train"] for each in plan.classes} == {
        kind: tags.count(f"B-{kind}") for kind in ("fruit", "metal", "beast")
    }
    assert all(each.example and len(each.example.split()) <= 2 for each in plan.classes)


def test_numbers_have_no_classes(project: Path) -> None:
    for path in (project / "data").iterdir():
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows = [row | {"label": row["label"] and float(number)} for number, row in enumerate(rows)]
        path.write_text("\n".join(map(json.dumps, rows)))
    assert planned(project, "task.problem_type=regression").classes == []


@pytest.mark.parametrize(
    ("train", "rows", "rare"),
    [(4, 100, True), (5, 100, False), (0, 100, False), (9, 10_000, True), (10, 10_000, False)],
)
def test_rare_classes_are_warned_of(train: int, rows: int, rare: bool) -> None:
    classes = [
        ClassCount(name="common", counts={"train": rows - train, "test": 50}),
        ClassCount(name="odd", counts={"train": train, "test": 1}),
    ]
    found = doubts_about_classes(classes, {"train": rows, "test": 51})
    assert found == (
        [
            "1 of 2 classes are rare in train, with less than 5 labelled examples or 0.1% of them, and may not be "
            f"learnt: odd ({train})"
        ]
        if rare
        else []
    )


def test_classes_without_a_test_row_are_warned_of() -> None:
    classes = [ClassCount(name=f"c{number}", counts={"train": 9, "test": number % 2}) for number in range(14)]
    (said,) = doubts_about_classes(classes, {"train": 126, "test": 7})
    assert said == "7 of 14 classes are not in test, so nothing is measured of them: c0, c2, c4, c6, c8 and 2 more"


def test_many_classes_are_summed_up_and_strange_names_are_quoted(project: Path) -> None:
    names = ["odd ", "\x1b[0m", *(f"c{number}" for number in range(CLASSES_SHOWN + 1))]
    classes = [ClassCount(name=name, counts={"train": 2, "test": 1}) for name in names]
    lines = list(plan_lines(planned(project).model_copy(update={"classes": classes})))
    assert any("'odd '" in line for line in lines) and any("'\\x1b[0m'" in line for line in lines)
    assert any(line.strip() == "and 3 more, together 6 train, 3 test" for line in lines)
    assert not any("\x1b" in line for line in lines)
