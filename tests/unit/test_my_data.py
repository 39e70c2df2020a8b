"""`potstill init my-data`: what rows are for is guessed by the names and values of their columns, and said."""

import json
from pathlib import Path
from typing import Any

import pytest

from potstill.data.cells import Cell
from potstill.errors import DataError, RecipeError
from potstill.projects.my_data import guessed
from potstill.recipe.yaml_file import load_recipe
from tests.row_forms import FORMS, as_conll, as_lines, as_table
from tests.unit.test_first_steps import lines, run

SENTENCE = {"words": ["Ann", "came"], "ner_tags": ["B-PER", "O"], "source": "x"}
KINDS: dict[str, tuple[dict[str, Any], str, dict[str, str]]] = {
    "classes": ({"Sentence": "a b", "Label": "x"}, "text_classification", {"text": "Sentence", "label": "Label"}),
    "class ids": ({"text": "a b", "label": 1}, "text_classification", {"text": "text", "label": "label"}),
    "an unknown text": (
        {"n": "1", "what": "long text", "intent": "x"},
        "text_classification",
        {"text": "what", "label": "intent"},
    ),
    "several": ({"text": "a", "labels": ["x"]}, "text_classification", {"text": "text", "label": "labels"}),
    "several in a table": (
        {"text": "a", "labels": Cell("['x', 'y']")},
        "text_classification",
        {"text": "text", "label": "labels"},
    ),
    "numbers": ({"text": "a", "label": 0.5}, "text_classification", {"text": "text", "label": "label"}),
    "tags": (SENTENCE, "token_classification", {"tokens": "words", "tags": "ner_tags"}),
    "chats": ({"messages": [{"role": "user", "content": "a"}]}, "causal_lm", {"messages": "messages"}),
    "sharegpt": ({"conversations": [{"from": "human", "value": "a"}]}, "causal_lm", {"messages": "conversations"}),
    "alpaca": (
        {"instruction": "a", "input": "b", "output": "c"},
        "causal_lm",
        {"prompt": "instruction", "input": "input", "completion": "output"},
    ),
    "questions": ({"question": "a", "answer": "b"}, "causal_lm", {"prompt": "question", "completion": "answer"}),
    "summaries": ({"article": "a", "highlights": "b"}, "seq2seq", {"source": "article", "target": "highlights"}),
    "a name with signs": (
        {"te\\1xt: a#": "a", "label": "x"},
        "text_classification",
        {"text": "te\\1xt: a#", "label": "label"},
    ),
    "texts": ({"text": "a", "url": "b"}, "causal_lm", {"text": "text"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_rows_are_for_is_guessed(kind: str) -> None:
    row, task, columns = KINDS[kind]
    guess = guessed("rows", [row, row])
    assert (guess.task, guess.columns) == (task, columns)
    problems = {"several": "multi_label_classification", "numbers": "regression"}
    default = "single_label_classification" if task == "text_classification" else None
    assert guess.problem_type == problems.get(kind.removesuffix(" in a table"), default)


@pytest.mark.parametrize("kind", KINDS)
def test_the_recipe_is_valid_and_names_the_rows(tmp_path: Path, kind: str) -> None:
    row, task, columns = KINDS[kind]
    (tmp_path / "rows.jsonl").write_bytes(as_lines([row, row]))
    printed = lines("init", "my-data", tmp_path / "deep/my", "--from", tmp_path / "rows.jsonl")
    recipe = load_recipe(tmp_path / "deep/my/recipe.yaml")
    assert recipe.task.kind == task and recipe.data.train == "../../rows.jsonl"
    # The turns of ShareGPT are read without being named.
    named = {role: name for role, name in columns.items() if name != "conversations"}
    assert {role: getattr(recipe.data.columns, role) for role in named} == named
    assert printed[1].startswith(f"guessed {task}") and all(json.dumps(name) in printed[1] for name in columns.values())
    assert printed[-1].endswith(f"potstill check {tmp_path}/deep/my/recipe.yaml")


@pytest.mark.parametrize("form", FORMS)
def test_rows_of_every_form_can_be_guessed(tmp_path: Path, form: str) -> None:
    rows = [{"review": f"text {number}", "stars": str(number), "label": "xy"[number % 2]} for number in range(6)]
    path = FORMS[form](tmp_path, rows)
    printed = lines("init", "my-data", tmp_path / "my", "--from", path)
    assert printed[0] == f'{path}: 6 rows looked at, with "review", "stars", "label"'
    assert printed[1].endswith('single_label_classification: text in "review", label in "label"')
    assert printed[2:4] == ['2 classes: "x", "y"', 'not read: "stars"']
    # Only the teacher is missing.
    result = run("check", tmp_path / "my/recipe.yaml")
    assert "teacher" in str(result.exception) or "share of 0.1" in str(result.exception)


def test_sentences_of_conll_are_guessed(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_bytes(as_conll([{"tokens": ["Ann"], "tags": ["B-PER"]}]))
    assert "token_classification" in lines("init", "my-data", tmp_path / "my", "--from", tmp_path / "a.conll")[1]


def test_what_cannot_be_guessed_or_read_is_said_and_nothing_is_written(tmp_path: Path) -> None:
    for name, content, message in (
        ("a.jsonl", as_lines([{"n": 1, "m": 2}]), 'cannot be guessed what its columns are for: "n", "m"'),
        ("b.csv", as_table([]), "0 rows"),
        ("c.xlsx", b"PK", "unknown format"),
        ("d.jsonl", b"{\n", "line 1"),
    ):
        (tmp_path / name).write_bytes(content)
        result = run("init", "my-data", tmp_path / "my", "--from", tmp_path / name)
        assert isinstance(result.exception, DataError) and message in str(result.exception)
        assert not (tmp_path / "my").exists()


def test_a_recipe_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("mine")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": "a"}))
    result = run("init", "my-data", tmp_path, "--from", tmp_path / "rows.jsonl")
    assert isinstance(result.exception, RecipeError) and (tmp_path / "recipe.yaml").read_text() == "mine"
    assert run("init", "my-data", tmp_path / "my").exit_code == 2
    assert run("init", "blank", tmp_path / "my", "--from", tmp_path / "rows.jsonl").exit_code == 2
    assert any(line.startswith("my-data") for line in lines("init", "--list"))
