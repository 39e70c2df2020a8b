"""`potstill init my-data`: what rows are for is guessed by the names and values of their columns, and said."""

import json
from pathlib import Path
from typing import Any

import pytest

from potstill.data.cells import Cell
from potstill.data.reading import Reading
from potstill.errors import DataError, RecipeError
from potstill.projects.my_data import guessed
from potstill.recipe.yaml_file import load_recipe
from tests.row_forms import FORMS, as_conll, as_lines, as_table
from tests.unit.test_first_steps import lines, run

SPAN = {"start": 0, "end": 3, "label": "PER"}
CHAT = [{"role": "user", "content": "a"}]
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
    "spans": ({"text": "Ann came", "spans": [SPAN]}, "token_classification", {"text": "text", "spans": "spans"}),
    "entities": (
        {"body": "Ann came", "entities": [SPAN], "answer": "accept", "tokens": [{"text": "Ann", "id": 0}]},
        "token_classification",
        {"text": "body", "spans": "entities"},
    ),
    "lists of three": (
        {"id": 1, "data": "Ann came", "label": [[0, 3, "PER"]]},
        "token_classification",
        {"text": "data", "spans": "label"},
    ),
    "spans as an object of lists": (
        {"text": "Ann came", "ents": {"start": [0], "end": [3], "label": ["PER"]}},
        "token_classification",
        {"text": "text", "spans": "ents"},
    ),
    "spans in a table": (
        {"text": "Ann", "spans": Cell(json.dumps([SPAN]))},
        "token_classification",
        {"text": "text", "spans": "spans"},
    ),
    "spans of Python in a table": (
        {"text": "Ann", "spans": Cell(str([SPAN]))},
        "token_classification",
        {"text": "text", "spans": "spans"},
    ),
    "words and spans without tags": (
        {"tokens": ["Ann", "came"], "text": "Ann came", "entities": [SPAN]},
        "token_classification",
        {"text": "text", "spans": "entities"},
    ),
    "spans of Python without a name": (
        {"n": "Ann", "ents": Cell(str([SPAN]))},
        "token_classification",
        {"text": "n", "spans": "ents"},
    ),
    "translations with a label": (
        {"source": "a", "target": "b", "label": "x"},
        "seq2seq",
        {"source": "source", "target": "target"},
    ),
    "pairs": (
        {"label": 1, "premise": "a", "hypothesis": "a longer text", "idx": 1},
        "text_classification",
        {"text": "premise", "text_pair": "hypothesis", "label": "label"},
    ),
    "pairs with numbers": (
        {"sentence_B": "b", "sentence_A": "a longer text", "entailment_label": "x", "label": 0.5},
        "text_classification",
        {"text": "sentence_A", "text_pair": "sentence_B", "label": "label"},
    ),
    "pairs of a question": (
        {"sentence": "a longer text", "question": "b", "label": "x"},
        "text_classification",
        {"text": "question", "text_pair": "sentence", "label": "label"},
    ),
    "answers that are right or wrong": (
        {"question": "a", "answer": "a longer text", "label": 0},
        "text_classification",
        {"text": "question", "text_pair": "answer", "label": "label"},
    ),
    "a text and what is beside it": (
        {"context": "a longer text", "utterance": "b", "intent": "x"},
        "text_classification",
        {"text": "utterance", "text_pair": "context", "label": "intent"},
    ),
    "passages": (
        {"passage": "a longer text", "question": "b", "answer": 1},
        "text_classification",
        {"text": "question", "text_pair": "passage", "label": "answer"},
    ),
    "intents of instructions": (
        {"instruction": "a", "response": "b", "intent": "x"},
        "causal_lm",
        {"prompt": "instruction", "completion": "response"},
    ),
    "chats with tools": (
        {"messages": CHAT, "tools": [{"name": "f"}], "chat_template_kwargs": {"a": 1}},
        "causal_lm",
        {"messages": "messages", "tools": "tools", "chat_template_kwargs": "chat_template_kwargs"},
    ),
    "chats with functions": (
        {"dialog": CHAT, "functions": json.dumps([{"name": "f"}])},
        "causal_lm",
        {"messages": "dialog", "tools": "functions"},
    ),
    "trl": (
        {"prompt": CHAT, "completion": [{"role": "assistant", "content": "b"}]},
        "causal_lm",
        {"prompt": "prompt", "completion": "completion"},
    ),
    "trl as text": (
        {"question": json.dumps(CHAT), "answer": "b", "tools": [{"name": "f"}]},
        "causal_lm",
        {"prompt": "question", "completion": "answer", "tools": "tools"},
    ),
    "prompts of turns": ({"prompt": CHAT, "url": "b"}, "causal_lm", {"prompt": "prompt"}),
    "ultrachat": (
        {"prompt": "a", "prompt_id": "b", "messages": CHAT},
        "causal_lm",
        {"messages": "messages"},
    ),
    "sharegpt beside a text": (
        {"conversations": [{"from": "human", "value": "a"}], "text": "a"},
        "causal_lm",
        {"messages": "conversations"},
    ),
    "alpaca with its text": (
        {"instruction": "a", "input": "", "output": "c", "text": "a c"},
        "causal_lm",
        {"prompt": "instruction", "completion": "output"},
    ),
}
IGNORED = {
    "entities": ["tokens"],
    "words and spans without tags": ["tokens"],
    "ultrachat": ["prompt"],
    "sharegpt beside a text": ["text"],
    "alpaca with its text": ["text"],
}
"""What is left out for another column to be read."""


@pytest.mark.parametrize("kind", KINDS)
def test_what_rows_are_for_is_guessed(kind: str) -> None:
    row, task, columns = KINDS[kind]
    guess = guessed("rows", [row, row])
    assert (guess.task, guess.columns) == (task, columns)
    assert guess.ignore == IGNORED.get(kind, [])
    problems = {"several": "multi_label_classification", "numbers": "regression", "pairs with numbers": "regression"}
    default = "single_label_classification" if task == "text_classification" else None
    assert guess.problem_type == problems.get(kind.removesuffix(" in a table"), default)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("spans of Python")])
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
    assert list(recipe.data.ignore) == IGNORED.get(kind, [])
    left_out = [line for line in printed if line.startswith("left out: ")]
    if kind in IGNORED:
        names, first = ", ".join(map(json.dumps, IGNORED[kind])), json.dumps(next(iter(columns.values())))
        assert left_out == [f"left out: {names}, in place of which {first} is read"]
    else:
        assert not left_out
    if not kind.endswith("in a table"):
        how = Reading(frozenset(recipe.data.ignore))
        assert len(recipe.task.read(tmp_path / "rows.jsonl", recipe.data.columns, how=how)) == 2
        unread = how.files[tmp_path / "rows.jsonl"].unread
        told = [f"not read: {', '.join(json.dumps(name) for name in row if name in unread)}"] if unread else []
        assert [line for line in printed if line.startswith("not read: ")] == told


def test_entities_are_likelier_than_other_tags_and_these_are_named() -> None:
    tags = {name: ["O", "O"] for name in ("pos_tags", "chunk_tags", "ner_tags")}
    guess = guessed("rows", [{"id": "0", "tokens": ["Ann", "came"], **tags, "lemmas": ["Ann", "come"]}])
    assert guess.columns == {"tokens": "tokens", "tags": "ner_tags"}
    assert guess.about == ['there are other tags: "pos_tags", "chunk_tags"; name these in data.columns.tags']
    only = guessed("rows", [{"tokens": ["Ann"], "pos_tags": ["N"], "chunk_tags": ["O"]}])
    assert only.columns["tags"] == "chunk_tags"


@pytest.mark.parametrize(
    ("labels", "problem_type"),
    [
        ((5, 1.5, 3), "regression"),
        ((5, 1, 3), "single_label_classification"),
        ((5.0, 1, None), "single_label_classification"),
        ((True, 0.5), "single_label_classification"),
    ],
)
def test_numbers_of_which_one_is_not_whole_are_no_classes(labels: tuple[Any, ...], problem_type: str) -> None:
    assert guessed("rows", [{"text": "a", "label": label} for label in labels]).problem_type == problem_type


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


def test_the_rows_are_named_from_where_a_link_leads(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(as_lines([{"text": "a"}]))
    (tmp_path / "far/away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far/away")
    lines("init", "my-data", tmp_path / "link/my", "--from", tmp_path / "rows.jsonl")
    train = load_recipe(tmp_path / "link/my/recipe.yaml").data.train
    assert (tmp_path / "link/my" / train).is_file()


def test_a_recipe_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("mine")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": "a"}))
    result = run("init", "my-data", tmp_path, "--from", tmp_path / "rows.jsonl")
    assert isinstance(result.exception, RecipeError) and (tmp_path / "recipe.yaml").read_text() == "mine"
    assert run("init", "my-data", tmp_path / "my").exit_code == 2
    assert run("init", "blank", tmp_path / "my", "--from", tmp_path / "rows.jsonl").exit_code == 2
    assert any(line.startswith("my-data") for line in lines("init", "--list"))
