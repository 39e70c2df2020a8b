"""TRL's rows, whose prompt and completion are turns, and Alpaca's, whose columns have other names."""

import json
from pathlib import Path
from typing import Any

import pytest

from potstill.data.columns import Columns
from potstill.data.dialogue_rows import read_dialogues
from potstill.data.dialogues import Completion, Conversation, PlainText
from potstill.data.reading import Reading
from potstill.data.turns import Message
from potstill.errors import DataError
from tests.row_forms import as_lines, as_table
from tests.unit.chat_shapes import CHATML, byte_level, decoded, tokenised
from tests.unit.test_dialogues import ANSWER, USER, read, turns

EARLIER = [USER, {"role": "assistant", "content": "Earlier."}, USER]
CALL = {"role": "assistant", "content": None, "tool_calls": [{"name": "find", "arguments": {}}]}


def test_turns_of_a_prompt_are_shown_and_those_of_its_completion_learnt(tmp_path: Path) -> None:
    row = {"prompt": EARLIER, "completion": [ANSWER]}
    as_text = {"prompt": json.dumps(EARLIER), "completion": json.dumps([ANSWER])}
    answered = {"prompt": EARLIER, "completion": "Hello"}
    all_text = {"prompt": json.dumps(EARLIER), "completion": "Hello"}
    by_key = {key: [turn[key] for turn in EARLIER] for key in ("role", "content")}
    objects = {"prompt": by_key, "completion": {"role": ["assistant"], "content": ["Hello"]}}
    object_as_text = {"prompt": json.dumps(EARLIER), "completion": {"role": ["assistant"], "content": ["Hello"]}}
    found = read(tmp_path, row, as_text, answered, all_text, objects, object_as_text)
    assert len({example.id for example in found}) == 1
    for example in found:
        assert isinstance(example, Conversation) and example.labelled
        assert example.messages == (
            Message("user", "Hi"),
            Message("assistant", "Earlier.", learnt=False),
            Message("user", "Hi"),
            Message("assistant", "Hello"),
        )
    tokenizer = byte_level(CHATML)
    (one,) = tokenised(tokenizer, example)
    assert decoded(tokenizer, one.ids[one.trained]) == "Hello<|im_end|>"


def test_a_prompt_of_turns_may_have_tools_and_no_completion_yet(tmp_path: Path) -> None:
    tools = [{"name": "find"}]
    called, asked, as_text = read(
        tmp_path,
        {"prompt": [USER], "completion": [CALL, {"role": "tool", "content": "x"}, ANSWER], "tools": tools},
        {"prompt": [USER], "completion": None, "chat_template_kwargs": {"enable_thinking": False}},
        {"prompt": json.dumps([USER]), "chat_template_kwargs": {"enable_thinking": False}},
    )
    assert isinstance(called, Conversation) and called.tools == json.dumps(tools)
    assert [message.learnt for message in called.messages] == [True] * 4
    assert not asked.labelled and asked == as_text


def test_a_prompt_that_is_a_text_stays_one(tmp_path: Path) -> None:
    listed = json.dumps([{"role": "user", "content": "x"}])
    found = read(
        tmp_path,
        {"prompt": "Write a list of turns.", "completion": listed},
        {"prompt": "[1, 2", "completion": "]"},
        {"prompt": '[{"a": 1}]'},
        {"prompt": "[{'a': 1}] is", "completion": "[{'role': 'x'}]"},
    )
    assert all(isinstance(example, Completion) for example in found)


@pytest.mark.parametrize("form", ["rows.csv", "rows.tsv", "rows.jsonl"])
@pytest.mark.parametrize("written", [str, lambda turns: "[" + "\n ".join(map(str, turns)) + "]"], ids=["list", "array"])
@pytest.mark.parametrize(("column", "other"), [("prompt", "Hello"), ("completion", json.dumps(EARLIER))])
def test_turns_as_python_writes_them_are_no_text_to_learn(
    tmp_path: Path, form: str, written: Any, column: str, other: str
) -> None:
    turns_of = {"prompt": EARLIER, "completion": [{"content": "Hello", "role": "assistant"}]}
    row = {"prompt": other, "completion": other, column: written(turns_of[column])}
    text = as_lines([row]) if form == "rows.jsonl" else as_table([row], "\t" if form == "rows.tsv" else ",")
    (tmp_path / form).write_bytes(text)
    with pytest.raises(
        DataError, match=rf'"{column}": a text that is no JSON\. It looks like str\(\) of a Python value'
    ):
        read_dialogues(tmp_path / form, Columns())


def test_turns_of_a_table_are_read_as_those_of_lines(tmp_path: Path) -> None:
    row = {"prompt": EARLIER, "completion": "Hello"}
    (tmp_path / "rows.csv").write_bytes(as_table([row]))
    assert list(read_dialogues(tmp_path / "rows.csv", Columns())) == read(tmp_path, row)


ALPACA = {"instruction": "Say it.", "input": "In French.", "output": "Bonjour."}


def test_rows_of_alpaca_are_read_by_their_own_names(tmp_path: Path) -> None:
    without, open_row = {**ALPACA, "input": ""}, {**ALPACA, "output": None, "text": None, "id": "o"}
    found = read(tmp_path, ALPACA, without, open_row)
    named = read(tmp_path, ALPACA, without, open_row, prompt="instruction", completion="output")
    assert (
        found
        == named
        == [
            Completion(found[0].id, "Say it.\n\nIn French.", "Bonjour."),
            Completion(found[1].id, "Say it.", "Bonjour."),
            Completion("o", "Say it.\n\nIn French.", None),
        ]
    )


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({**ALPACA, "system": "Be kind."}, r'"system", first line 1, which is not read\. It is the system turn'),
        ({**ALPACA, "history": [["a", "b"]]}, r'"history", first line 1, which is not read\. It is the turns before'),
        ({**ALPACA, "output": 3}, r'line 1 "output": expected text, found int'),
        ({**ALPACA, "input": "<noinput>"}, r'"input": \'<noinput>\' stands for none'),
        ({**ALPACA, "instruction": " "}, r'"instruction": empty'),
    ],
)
def test_errors_in_rows_of_alpaca_name_their_own_columns(tmp_path: Path, row: dict[str, Any], problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        read(tmp_path, row)


def test_rows_with_another_form_beside_alpacas_are_read_as_that(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({**ALPACA, "text": "All of it.", "input": ""}) + "\n")
    with pytest.raises(
        DataError, match=r'has "instruction" and "output" beside "text".*: \[instruction, output\] does'
    ):
        read_dialogues(path, Columns())
    path.with_name("empty.jsonl").write_text(json.dumps({"instruction": "", "output": "", "text": "All of it."}) + "\n")
    assert isinstance(read_dialogues(path.with_name("empty.jsonl"), Columns())[0], PlainText)
    (text,) = read_dialogues(path, Columns(), how=Reading(frozenset({"input"})))
    assert isinstance(text, PlainText)
    (text,) = read_dialogues(path, Columns(), how=Reading(frozenset({"instruction", "output"})))
    assert isinstance(text, PlainText)
    (asked,) = read_dialogues(path, Columns(), how=Reading(frozenset({"text"})))
    assert isinstance(asked, Completion)
    with pytest.raises(DataError, match=r'line 2 has no "messages", "prompt" or "text"; .*data\.columns'):
        read(tmp_path, turns(USER, ANSWER), ALPACA)
