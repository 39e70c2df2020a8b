"""Rows that a chat template refuses: all in one error, by file and line, or left out and counted."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from potstill.errors import DataError
from potstill.recipe.yaml_file import load_recipe
from potstill.records import PlanRecord
from potstill.stages.inputs import read_inputs
from potstill.stages.plan import make_plan

REFUSES = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turns') }}{% endif %}"
Planned = Callable[..., PlanRecord]


@pytest.fixture
def planned(chat_project: Path, chat_teacher_folder: Path, tmp_path: Path) -> Planned:
    """Plans with a template that refuses turns of the system, as lines 2 and 12, the last of train, have one."""
    teacher = Path(shutil.copytree(chat_teacher_folder, tmp_path / "teacher"))
    template = teacher / "chat_template.jinja"
    template.write_text(REFUSES + template.read_text())
    path = chat_project / "data/train.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()[:12]]
    for number in (1, 11):
        rows[number]["messages"].insert(0, {"role": "system", "content": "w7"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def plan(*settings: str) -> PlanRecord:
        recipe = load_recipe(chat_project / "recipe.yaml", [f"teacher.model={teacher}", *settings])
        return make_plan(recipe, read_inputs(recipe, chat_project), tmp_path / "run")

    return plan


def test_they_are_named_by_file_and_line(planned: Planned) -> None:
    with pytest.raises(DataError) as caught:
        planned()
    counted, second, last = str(caught.value).splitlines()
    assert counted == "2 rows cannot be used; the first 2:"
    assert "train.jsonl: line 2: row " in second and "no system turns" in second
    assert "train.jsonl: line 12: row " in last


def test_they_are_skipped_and_counted_where_the_recipe_says_so(planned: Planned) -> None:
    train = planned("data.on_error=skip").splits["train"]
    assert (train.read, train.rows, train.skipped) == (12, 10, 2)
    assert "train.jsonl: line 2: row " in train.skipped_first[0] and "line 12" in train.skipped_first[1]


def test_so_are_those_that_are_held_out_of_train(planned: Planned, chat_project: Path) -> None:
    path = chat_project / "data/train.jsonl"
    (chat_project / "data/validation.jsonl").unlink()
    everything = planned("data.on_error=skip", "data.validation=0.4").splits
    assert sum(everything[name].rows for name in ("train", "validation")) == 10
    assert sum(everything[name].skipped for name in ("train", "validation")) == 2
    lines = path.read_text().splitlines(keepends=True)
    (chat_project / "data/validation.jsonl").write_text("".join(line for line in lines if '"system"' not in line))
    path.write_text("".join(line for line in lines if '"system"' in line))
    with pytest.raises(DataError, match=r"data\.train: 0 usable rows \(2 read: 2 that cannot be read\)"):
        planned("data.on_error=skip")


def test_so_are_prompts_that_the_teacher_is_to_answer(planned: Planned, chat_project: Path) -> None:
    path = chat_project / "data/train.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["messages"].pop()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    generated = "label.responses={kind: generated, max_new_tokens: 4}"
    with pytest.raises(DataError) as caught:
        planned(generated)
    assert str(caught.value).startswith("2 rows cannot be used") and "train.jsonl: line 12: row " in str(caught.value)
    train = planned(generated, "data.on_error=skip").splits["train"]
    assert (train.rows, train.skipped) == (10, 2)
