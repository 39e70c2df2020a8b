"""What goes with a conversation: its tools, arguments of the chat template, and what a recipe lets go."""

import json
from dataclasses import replace
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from potstill.data.columns import Columns
from potstill.data.dialogue_rows import read_dialogues
from potstill.data.dialogues import Conversation, prompt_of
from potstill.data.reading import Reading
from potstill.errors import DataError
from tests.row_forms import FORMS, TABLES
from tests.unit.test_dialogues import ANSWER, USER, read, turns

TOOL = {"type": "function", "function": {"name": "find", "description": "Finds."}}


def test_tools_and_arguments_of_the_template_are_part_of_a_conversation(tmp_path: Path) -> None:
    chat = turns(USER, ANSWER)
    rows = [
        chat,
        {**chat, "tools": [TOOL]},
        {**chat, "tools": [TOOL, TOOL]},
        {**chat, "chat_template_kwargs": {"enable_thinking": False}},
        {**chat, "tools": [TOOL], "chat_template_kwargs": {"enable_thinking": False}, "domain": "d"},
    ]
    examples = read(tmp_path, *rows)
    assert len({example.id for example in examples}) == len(rows) and len({example.text for example in examples}) == 1
    assert len({json.dumps(example.content[1:]) for example in examples}) == len(rows)
    for example in examples:
        assert Conversation.of(json.loads(json.dumps(example.content))) == example
    assert examples[0].content == [examples[0].id, [["user", "Hi", None], ["assistant", "Hello", None]]]
    as_text = {**chat, "tools": json.dumps([TOOL]), "chat_template_kwargs": '{"enable_thinking": false}', "domain": "d"}
    assert read(tmp_path, as_text) == examples[4:]
    nothing = {**chat, "tools": [], "chat_template_kwargs": {}}
    assert read(tmp_path, nothing, {**chat, "tools": "", "chat_template_kwargs": None}) == examples[:1] * 2
    assert prompt_of(examples[1]) == replace(examples[1], messages=examples[1].messages[:1])


@pytest.mark.parametrize("kept", ["rows.parquet", "rows.jsonl"])
def test_nulls_that_parquet_fills_in_are_no_part_of_a_tool(tmp_path: Path, kept: str) -> None:
    other = {"type": "function", "function": {"name": "send", "strict": True}}
    rows = [{"id": str(number), **turns(USER, ANSWER), "tools": [tool]} for number, tool in enumerate((TOOL, other))]
    table = pa.Table.from_pylist(rows)
    (tmp_path / "filled").mkdir()
    path = tmp_path / "filled" / kept
    if kept == "rows.parquet":
        pyarrow.parquet.write_table(table, path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
        assert '"strict": null' in path.read_text()
    assert list(read_dialogues(path, Columns())) == read(tmp_path, *rows)


@pytest.mark.parametrize("form", FORMS)
def test_nulls_in_objects_count_for_nothing_in_every_form(tmp_path: Path, form: str) -> None:
    tools, values = [{"name": "f", "default": None, "enum": [None, "a"]}], {"a": None, "b": {"c": 1, "d": None}}
    call = {"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"a": 1, "b": None}}]}
    row = {**turns(USER, call), "tools": tools, "chat_template_kwargs": values}
    as_text = {name: json.dumps(value) for name, value in row.items()}
    call["tool_calls"] = [{"name": "f", "arguments": '{"a": 1, "b": null}'}]
    rows = (
        [row]
        if form in TABLES
        else [row, as_text, {**turns(USER, call), "tools": tools, "chat_template_kwargs": values}]
    )
    expected = {
        **turns(USER, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"a": 1}}]}),
        "tools": [{"name": "f", "enum": [None, "a"]}],
        "chat_template_kwargs": {"b": {"c": 1}},
    }
    (wanted,) = read(tmp_path, expected)
    for number, each in enumerate(rows):
        (tmp_path / f"{number}").mkdir()
        assert list(read_dialogues(FORMS[form](tmp_path / f"{number}", [each]), Columns())) == [wanted]


def test_a_date_within_tools_is_an_error_of_its_row(tmp_path: Path) -> None:
    row = {**turns(USER, ANSWER), "tools": [{"name": "f", "since": date(2024, 1, 1)}]}
    pyarrow.parquet.write_table(pa.Table.from_pylist([row]), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r'row 0 "tools": a value of type date, which JSON does not have\. Write it as'):
        read_dialogues(tmp_path / "rows.parquet", Columns())


def test_keys_of_a_turn_without_a_value_are_not_there(tmp_path: Path) -> None:
    empty = {"refusal": None, "annotations": [], "tool_calls": [], "audio": {}, "name": "", "function_call": None}
    assert read(tmp_path, turns(USER, {**ANSWER, **empty})) == read(tmp_path, turns(USER, ANSWER))


@pytest.mark.parametrize("name", ["functions", "available_tools", "toolDefinitions"])
def test_tools_under_another_name_say_where_to_name_it(tmp_path: Path, name: str) -> None:
    row = {**turns(USER, ANSWER), name: [TOOL]}
    with pytest.raises(DataError, match=rf'"{name}", .* Name it in data\.columns\.tools\. data\.ignore: \[{name}\]'):
        read(tmp_path, row)
    assert read(tmp_path, row, tools=name) == read(tmp_path, {**turns(USER, ANSWER), "tools": [TOOL]})
    with pytest.raises(DataError, match=r"tools of chat templates\)\. data\.ignore"):
        read(tmp_path, {**turns(USER, ANSWER), "tool_choice": "auto"})


@pytest.mark.parametrize("part", [{"text": "Hi"}, {"type": "input_text", "text": "Hi"}, {"type": None, "text": "Hi"}])
def test_parts_that_hold_text_are_read_under_each_name(tmp_path: Path, part: dict[str, str]) -> None:
    said = {**ANSWER, "content": [{"type": "output_text", "text": ANSWER["content"]}]}
    assert read(tmp_path, turns({**USER, "content": [part]}, said)) == read(tmp_path, turns(USER, ANSWER))
    with pytest.raises(DataError, match="a part of type None; only text can be learnt"):
        read(tmp_path, turns({**USER, "content": [{"image": "x"}]}))


def test_empty_arguments_of_the_rendering_are_not_there(tmp_path: Path) -> None:
    given = {"documents": [], "tools": None, "chat_template": "", "enable_thinking": False}
    rows = [{**turns(USER), "chat_template_kwargs": each} for each in (given, {"enable_thinking": False})]
    first, second = read(tmp_path, *rows)
    assert first == second


def test_what_a_recipe_lets_go_is_no_part_of_a_turn(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "Hi", "cache_control": {"type": "x"}}]
    path = tmp_path / "lets_go.jsonl"
    names = ("text", "type", "role", "content", "cache_control")
    path.write_text(json.dumps({**turns({**USER, "content": parts}, ANSWER), "text": "x", "content": 3}))
    how = Reading(frozenset(names))
    assert list(read_dialogues(path, Columns(), how=how)) == read(tmp_path, turns(USER, ANSWER))
    assert how.files[path].ignored == {"text": 1, "content": 1}
    path.write_text(json.dumps({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "x"}]}))
    assert len(read_dialogues(path, Columns(), how=Reading(frozenset({"from", "value"})))) == 1


def test_what_a_recipe_lets_go_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    row = {**turns({**USER, "name": "Ann"}, {**ANSWER, "weight": 0.5}), "tools": [TOOL], "text": "x"}
    path.write_text(json.dumps(row))
    with pytest.raises(DataError, match='has both "messages" and "text"'):
        read_dialogues(path, Columns())
    how = Reading(frozenset({"name", "weight", "tools", "text"}))
    assert list(read_dialogues(path, Columns(), how=how)) == read(tmp_path, turns(USER, ANSWER))
