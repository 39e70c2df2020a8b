"""Reading examples for language models: every content comes back exactly, and every bad row is one clear error."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.data.dialogues import (
    Completion,
    Conversation,
    Example,
    Message,
    PlainText,
    read_dialogues,
)
from potstill.data.rows import Columns
from potstill.errors import DataError

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello"}


def read(folder: Path, *records: Any, **columns: str) -> list[Example]:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return list(read_dialogues(path, Columns(**columns)))


def test_each_kind_of_row_becomes_its_example(tmp_path: Path) -> None:
    thought = {**ANSWER, "reasoning_content": "A greeting."}
    examples = read(
        tmp_path,
        {"id": "c", "messages": [{"role": "system", "content": "Be kind."}, USER, thought, USER]},
        {"id": 3, "prompt": "2 + 2 =", "completion": " 4"},
        {"id": "q", "prompt": "2 + 3 =", "completion": None, "text": None},
        {"id": "t", "text": "All of it."},
    )
    assert examples == [
        Conversation(
            "c",
            (
                Message("system", "Be kind."),
                Message("user", "Hi"),
                Message("assistant", "Hello", "A greeting."),
                Message("user", "Hi"),
            ),
        ),
        Completion("3", "2 + 2 =", " 4"),
        Completion("q", "2 + 3 =", None),
        PlainText("t", "All of it."),
    ]
    assert [example.text for example in examples] == [
        "Be kind.\n\nHi\n\nA greeting.\n\nHello\n\nHi",
        "2 + 2 = 4",
        "2 + 3 =",
        "All of it.",
    ]
    assert [example.labelled for example in examples] == [False, True, False, True]


def test_columns_can_have_other_names(tmp_path: Path) -> None:
    names = {"id": "key", "messages": "turns", "prompt": "q", "completion": "a", "text": "body"}
    examples = read(tmp_path, {"key": "1", "turns": [USER]}, {"q": "x", "a": "y"}, {"body": "z", "text": 1}, **names)
    assert [type(example) for example in examples] == [Conversation, Completion, PlainText]
    assert examples[0].id == "1"


def test_a_row_without_id_is_named_by_its_content(tmp_path: Path) -> None:
    thought = {**ANSWER, "reasoning_content": "Hm."}
    contents = [
        {"messages": [USER, ANSWER]},
        {"messages": [USER, thought]},
        {"messages": [USER]},
        {"messages": [{**USER, "content": "Hi\n\nHello"}]},
        {"prompt": "Hi", "completion": "Hello"},
        {"prompt": "HiHello"},
        {"text": "HiHello"},
    ]
    first, second = read(tmp_path, *contents), read(tmp_path, *contents[::-1])
    ids = [example.id for example in first]
    assert len(set(ids)) == len(contents)
    assert ids == [example.id for example in second][::-1]


def test_an_id_of_two_contents_is_named_with_both_lines(tmp_path: Path) -> None:
    row = {"id": "a", "messages": [USER, ANSWER]}
    assert len(read(tmp_path, row, row)) == 2, "the same content again is a duplicate row"
    with pytest.raises(DataError, match=r'rows\.jsonl: Duplicate id "a": line 1, line 3\. Give each row'):
        read(tmp_path, row, row, {"id": "a", "messages": [USER]})


def test_parquet_gives_the_same_examples_as_json_lines(tmp_path: Path) -> None:
    records = [
        {"id": "1", "messages": [USER, {**ANSWER, "reasoning_content": "So."}]},
        {"id": "2", "prompt": "a\u2028b", "completion": None},
        {"id": "3", "text": "c"},
    ]
    columns = ["id", "messages", "prompt", "completion", "text"]
    table = pa.Table.from_pylist([{column: record.get(column) for column in columns} for record in records])
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    from_parquet = list(read_dialogues(tmp_path / "rows.parquet", Columns()))
    assert from_parquet == read(tmp_path, *records)
    assert len(from_parquet) == 3


def turns(*messages: Any) -> dict[str, Any]:
    return {"messages": list(messages)}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([1], r': expected an object with "messages", "prompt" or "text", found list\.'),
        ({"body": "x", "text": None}, r"has no \"messages\".*; found \['body'\]\. Set data\.columns"),
        ({"text": "x", "prompt": "y"}, r'has both "prompt" and "text"; expected one of'),
        ({"text": "x", "messages": [USER]}, r'has both "messages" and "text"; expected one of'),
        ({"text": "x", "completion": "y"}, r'has "completion" beside "text"; it belongs to a "prompt"'),
        ({"completion": "y"}, r'has no "messages", "prompt" or "text"; found \[\'completion\'\]'),
        ({"messages": []}, r'"messages": expected a list of turns .* found an empty list'),
        ({"messages": "Hi"}, r'"messages": expected a list of turns .* found str'),
        (turns(USER, "Hi"), r'"messages\[1\]": expected an object with role and content, found str'),
        (
            turns(USER, {"role": "bot", "content": "x"}),
            r"\"messages\[1\]\": unknown role 'bot'; expected one of system",
        ),
        (turns(USER, {"content": "x"}), r'"messages\[1\]": unknown role None; .*system, user, assistant, tool'),
        (turns(USER, {"role": ["user"], "content": "x"}), r"unknown role \['user'\]"),
        (turns({**USER, "content": " \n"}), r'"messages\[0\]\.content": empty; drop the turn'),
        (turns({**USER, "content": None}), r'"messages\[0\]\.content": expected text, found NoneType'),
        (turns({**USER, "content": [{"type": "text"}]}), r'"messages\[0\]": content of parts is not supported\. Join'),
        (turns({**USER, "content": "\ud800"}), r'"messages\[0\]\.content": U\+D800 is not valid Unicode'),
        (turns(USER, {**ANSWER, "tool_calls": [{}]}), r'"messages\[1\]": tool_calls are not supported'),
        (turns({**USER, "reasoning_content": "x"}), r'"messages\[0\]": reasoning_content in a turn of the user'),
        (turns(USER, {**ANSWER, "reasoning_content": ""}), r'"messages\[1\]\.reasoning_content": empty; use null'),
        (turns(USER, {**ANSWER, "reasoning_content": 3}), r"reasoning_content\": expected text, found int"),
        (turns(ANSWER, USER), r'"messages": expected a user turn first, .*found the assistant\'s\. Drop'),
        (turns({"role": "system", "content": "x"}), r"expected a user turn first, .*found none"),
        (turns({"role": "system", "content": "x"}, ANSWER), r"expected a user turn first, .*found the assistant's"),
        (turns(USER, {"role": "system", "content": "x"}), r'"messages": ends with a system turn'),
        ({"prompt": ""}, r'"prompt": empty; use "text" for a text without a prompt'),
        ({"prompt": [USER]}, r'"prompt": expected text, found list\. Put turns into "messages"'),
        ({"prompt": "x", "completion": [ANSWER]}, r'"completion": expected text, found list\. Put turns'),
        ({"prompt": "x", "completion": ""}, r'"completion": empty; use null where the teacher is to write it'),
        ({"prompt": "x", "id": "\udc00"}, r'"id": U\+DC00 is not valid Unicode'),
        ({"prompt": "x", "id": ""}, r'"id": empty; use null to name the row by its content'),
        ({"text": 3}, r'"text": expected text, found int'),
    ],
)
def test_a_bad_row_gives_one_error_that_names_file_line_and_reason(tmp_path: Path, record: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, {"text": "ok"}, record)
    assert str(caught.value).startswith(f"{tmp_path / 'rows.jsonl'}: line 2")
    assert "\n" not in str(caught.value)


def test_a_file_without_rows_or_of_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl: 0 rows"):
        read(tmp_path)
    with pytest.raises(DataError, match=r"none\.jsonl: no such file"):
        read_dialogues(tmp_path / "none.jsonl", Columns())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.sampled_from(["user", "assistant", "system"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "messages", "prompt", "text"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(record=json_values | st.dictionaries(st.sampled_from(["messages", "prompt", "text", "id"]), json_values))
def test_any_record_is_an_example_or_a_data_error(tmp_path_factory: pytest.TempPathFactory, record: Any) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzzed-dialogues"
    folder.mkdir(exist_ok=True)
    try:
        (example,) = read(folder, record)
    except DataError as error:
        assert "rows.jsonl: line 1" in str(error)
    else:
        assert isinstance(example.text, str) and example.id
