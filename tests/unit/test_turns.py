"""Turns of records: forms that are mixed, roles of other interfaces, reasoning in two places."""

import json
from pathlib import Path
from typing import Any

import pytest

from potstill.data.dialogue_rows import read_dialogues
from potstill.data.places import Place
from potstill.data.reading import Reading
from potstill.data.rows import Columns
from potstill.data.turns import Message, read_turn
from potstill.errors import DataError


def read(turn: Any, ignore: frozenset[str] = frozenset()) -> Message:
    return read_turn(Place(Path("rows.jsonl"), "line 2"), "messages[1]", turn, ignore)


@pytest.mark.parametrize(
    "turn",
    [
        {"role": "user", "value": "Hi"},
        {"from": "human", "content": "Hi"},
        {"from": "human", "role": "user", "value": "Hi"},
        {"from": "human", "role": None, "value": "Hi", "content": None},
        {"from": "human", "role": "", "value": "Hi", "content": ""},
        {"role": "user", "from": "", "content": "Hi", "value": ""},
        {"role": "user", "content": "Hi", "value": "Hi"},
    ],
)
def test_a_turn_between_two_forms_is_read_as_either(turn: dict[str, Any]) -> None:
    assert read(turn) == Message("user", "Hi")
    assert read(turn, frozenset({"value", "from"})) == Message("user", "Hi"), "a field of rows is none of turns"


@pytest.mark.parametrize(
    ("turn", "problem"),
    [
        (
            {"role": "user", "content": "Hi", "value": "Ho"},
            '"content" and "value" differ. Keep one of the two in the turn',
        ),
        (
            {"role": "user", "from": "gpt", "content": "Hi"},
            "\"from\" 'gpt' and \"role\" 'user' differ. Keep one of the two in the turn",
        ),
        ({"role": "user", "from": "Ann", "content": "Hi"}, "\"from\" 'Ann' and \"role\" 'user' differ. Keep one"),
        ({"role": "developer", "content": "Hi"}, 'Write "role": "system" instead, or drop the row'),
        ({"role": "model", "content": "Hi"}, 'Write "role": "assistant" instead'),
        ({"role": "function", "content": "Hi"}, 'Write "role": "tool" instead'),
        ({"role": "User ", "content": "Hi"}, 'Write "role": "user" instead'),
        (
            {"role": "narrator", "content": "Hi"},
            "expected one of system, user, assistant, tool. Write one of these",
        ),
        ({"role": ["user"], "content": "Hi"}, "Write one of these, or drop the row"),
        ({"content": "Hi"}, 'Give the turn a "role", or drop the row'),
        ({"role": "system", "content": None}, "expected text, found NoneType. Drop the turn, or write its text"),
        ({"role": "tool", "content": {"a": 1}}, "expected text, found dict. Write it as text"),
        (
            {"role": "assistant", "content": "Hi", "weight": "0"},
            "found '0'. Write it as a number, or say that it",
        ),
        (
            {"role": "assistant", "content": "<think>So.</think>Hi", "reasoning_content": "Hm."},
            "begins with <think> and other reasoning than that beside it. Keep the reasoning in one of the two places",
        ),
        ({"role": "assistant", "content": "<think>Hm.</think> ", "reasoning_content": "Hm."}, "empty; drop the turn"),
    ],
)
def test_a_turn_that_cannot_be_read_comes_with_a_fix(turn: dict[str, Any], problem: str) -> None:
    with pytest.raises(DataError) as caught:
        read(turn)
    assert str(caught.value).startswith('rows.jsonl: line 2 "messages[1]') and problem in str(caught.value)


def test_reasoning_in_two_places_is_taken_once() -> None:
    turn = {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nHi", "reasoning": "Hm."}
    assert read(turn) == Message("assistant", "Hi", "Hm.")


@pytest.mark.parametrize("content", ["", " \n", []])
def test_an_empty_turn_of_the_system_is_one(content: Any) -> None:
    assert read({"role": "system", "content": content}) == Message("system", content or "")
    with pytest.raises(DataError, match="empty; drop the turn"):
        read({"role": "user", "content": content})


def test_messages_may_be_the_text_of_their_json(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"messages": value}) + "\n" for value in (turns, json.dumps(turns))))
    listed, text = read_dialogues(path, Columns(), how=Reading())
    assert listed == text
    path.write_text(json.dumps({"messages": json.dumps(turns)[:-1]}))
    with pytest.raises(DataError, match='"messages": a text that is no JSON'):
        read_dialogues(path, Columns())
