"""Calls of tools and their results in the forms that data sets have, with one clear error for each that is none."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from potstill.data.columns import Columns
from potstill.data.dialogue_rows import read_dialogues
from potstill.data.dialogues import Conversation
from potstill.data.places import Place
from potstill.data.tool_calls import ToolCall, problem_of_calls
from potstill.data.turns import Message, read_turn
from potstill.errors import DataError
from tests.unit.test_dialogues import ANSWER, USER, read, turns

FIND = ToolCall("find", '{"number": "12"}', "c1")
OPENAI = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"number": "12"}'}}


def turn(given: Any) -> Message:
    return read_turn(Place(Path("rows.jsonl"), "line 2"), "messages[1]", given, frozenset())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"content": None, "tool_calls": [OPENAI]}, FIND),
        ({"tool_calls": [OPENAI]}, FIND),
        ({"content": "", "tool_calls": json.dumps([OPENAI])}, FIND),
        ({"tool_calls": [{**OPENAI, "function": {"name": "find", "arguments": {"number": "12"}}}]}, FIND),
        ({"tool_calls": [{"id": "c1", "name": "find", "arguments": {"number": "12", "state": None}}]}, FIND),
        ({"tool_calls": [{"id": "c1", "name": "find", "parameters": {"number": "12"}}]}, FIND),
        ({"function_call": {"name": "find", "arguments": '{"number": "12"}'}}, ToolCall("find", FIND.arguments)),
        ({"tool_calls": [{"name": "find", "arguments": ""}]}, ToolCall("find", "{}")),
        ({"tool_calls": [{"name": "find"}], "function_call": None}, ToolCall("find", "{}")),
        ({"tool_calls": [{"name": "find", "arguments": '{"a": null}'}]}, ToolCall("find", "{}")),
        (
            {"tool_calls": [{"name": "find", "arguments": '{"a":1,"b":{"c":null}}'}]},
            ToolCall("find", '{"a": 1, "b": {}}'),
        ),
    ],
)
def test_calls_are_read_in_every_form(given: dict[str, Any], expected: ToolCall) -> None:
    assert turn({"role": "assistant", **given}) == Message("assistant", "", calls=(expected,))


def test_a_result_names_the_call_that_it_answers_and_may_be_empty() -> None:
    result = {"role": "tool", "tool_call_id": "c1", "name": "find", "content": ""}
    assert turn(result) == Message("tool", "", call_id="c1", name="find")
    assert turn({"role": "tool", "content": "x", "name": None, "tool_call_id": ""}) == Message("tool", "x")


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"tool_calls": [OPENAI], "function_call": {"name": "x"}}, "tool_calls and function_call both name calls"),
        ({"tool_calls": "find()"}, '.tool_calls": a text that is no JSON. Correct it'),
        ({"tool_calls": "[{'name': 'find'}]"}, "It looks like str() of a Python value: write json.dumps of it"),
        ({"tool_calls": ["find"]}, '.tool_calls": expected a call of a function, found str. Write it as {"name"'),
        ({"tool_calls": [OPENAI, {"id": "c"}]}, '.tool_calls[1]": a call without the name of its function. Write it'),
        ({"tool_calls": [{**OPENAI, "type": "custom"}]}, "a call of type 'custom'; only functions can be called"),
        (
            {"tool_calls": [{"name": "f", "arguments": [1]}]},
            "expected an object of values by name, or its JSON text, found",
        ),
        ({"tool_calls": [{"name": "f", "arguments": "12"}]}, "or its JSON text, found int. Write it as"),
        ({"tool_calls": [{"name": "f", "arguments": "{'a': 1}"}]}, "write json.dumps of it"),
        ({"tool_calls": [{"name": "f", "arguments": '{"a": 1, "a": 2}'}]}, 'has the key "a" twice'),
        ({"tool_calls": [{"name": "f", "arguments": {}, "parameters": {"a": 1}}]}, "arguments and parameters differ"),
        ({"tool_calls": [{"name": "f", "result": "x"}]}, "result would not be read"),
        ({"tool_calls": [{"name": " "}]}, '.name": empty; name the function'),
        ({"role": "user", "content": "x", "tool_calls": [OPENAI]}, "tool_calls in a turn of the user; only assistants"),
        ({"role": "user", "content": "x", "name": "Ann"}, '"name" would not be read; of a turn role, content, '),
        ({"content": "x", "tool_call_id": "c1"}, '"tool_call_id" would not be read'),
    ],
)
def test_a_call_that_cannot_be_read_comes_with_a_fix(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(DataError) as caught:
        turn({"role": "assistant", **given})
    assert str(caught.value).startswith('rows.jsonl: line 2 "messages[1]') and problem in str(caught.value)


def test_the_calls_and_results_of_sharegpt(tmp_path: Path) -> None:
    call = {"name": "find", "arguments": {"number": "12"}}
    (example,) = read(
        tmp_path,
        {
            "tools": json.dumps([{"name": "find"}]),
            "conversations": json.dumps(
                [
                    {"from": "system", "value": "Be kind."},
                    {"from": "human", "value": "Where?"},
                    {"from": "function_call", "value": json.dumps(call)},
                    {"from": "observation", "value": '{"state": "sent"}'},
                    {"from": "function_call", "value": json.dumps([call, call])},
                    {"from": "tool", "value": "x"},
                    {"from": "gpt", "value": "Sent."},
                ]
            ),
        },
    )
    found = ToolCall("find", '{"number": "12"}')
    assert isinstance(example, Conversation) and example.tools == '[{"name": "find"}]'
    assert [(message.role, message.content, message.calls) for message in example.messages] == [
        ("system", "Be kind.", ()),
        ("user", "Where?", ()),
        ("assistant", "", (found,)),
        ("tool", '{"state": "sent"}', ()),
        ("assistant", "", (found, found)),
        ("tool", "x", ()),
        ("assistant", "Sent.", ()),
    ]
    assert Conversation.of(json.loads(json.dumps(example.content))) == example


def test_nulls_that_parquet_fills_in_are_no_arguments(tmp_path: Path) -> None:
    calls = [{"name": "find", "arguments": {"number": "12"}}, {"name": "send", "arguments": {"to": ["Ann"]}}]
    rows = [
        {"id": str(number), **turns(USER, {"role": "assistant", "content": None, "tool_calls": [call]}), "tools": []}
        for number, call in enumerate(calls)
    ]
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    found = [example.messages[1].calls for example in read_dialogues(tmp_path / "rows.parquet", Columns())]  # type: ignore[union-attr]
    assert found == [(ToolCall("find", '{"number": "12"}'),), (ToolCall("send", '{"to": ["Ann"]}'),)]


def test_turns_without_calls_are_kept_as_they_were_before_there_were_any(tmp_path: Path) -> None:
    (example,) = read(tmp_path, turns(USER, {**ANSWER, "weight": 0}, USER, {**ANSWER, "tool_calls": []}))
    assert example.content[1] == [
        ["user", "Hi", None],
        ["assistant", "Hello", None, False],
        ["user", "Hi", None],
        ["assistant", "Hello", None],
    ]


@pytest.mark.parametrize(
    ("said", "lost"),
    [
        ('{"name": "find", "arguments": {"number":"12"}}', None),
        ("<function=find> <parameter=number>\n12\n</parameter>", None),
        ("find", '"number" in the call of find'),
        ('"number": "12"', "the call of find"),
        ('find {"number": "13"}', '"12" in the call of find'),
        ("find {'number': '12'}", "the arguments of find as JSON"),
        ('find "{\\"number\\": \\"12\\"}"', "the arguments of find as JSON"),
    ],
)
def test_what_of_a_call_is_lost_is_named(said: str, lost: str | None) -> None:
    assert problem_of_calls(said, [FIND]) == lost
