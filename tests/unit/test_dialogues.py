"""Reading examples for language models: every content comes back exactly, and every bad row is one clear error."""

import inspect
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from potstill.data.columns import Columns
from potstill.data.dialogue_rows import ARGUMENTS, columns_read, read_dialogues
from potstill.data.dialogues import Completion, Conversation, Example, PlainText
from potstill.data.reading import Reading
from potstill.data.turns import Message
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
        (
            turns({**USER, "content": [{"type": "text"}]}),
            r'"messages\[0\]\.content\[0\]\.text": expected text, found No',
        ),
        (turns({**USER, "content": ["Hi"]}), r'"messages\[0\]\.content\[0\]": expected a part such as .*found str'),
        (
            turns({**USER, "content": [{"type": "text", "text": "x"}, {"type": "image"}]}),
            r"\"messages\[0\]\.content\[1\]\": a part of type 'image'; only text can be learnt\. Drop the row",
        ),
        (
            turns({**USER, "content": [{"type": "text", "text": "x", "cache_control": {}}]}),
            r"content\[0\]\": cache_control would not be read\. .*data\.ignore: \[cache_control\]",
        ),
        (turns({**USER, "content": []}), r'"messages\[0\]\.content": empty'),
        (turns({**USER, "content": "\ud800"}), r'"messages\[0\]\.content": U\+D800 is not valid Unicode'),
        (turns(USER, {**ANSWER, "tool_calls": [{}]}), r'"messages\[1\]\.tool_calls": a call without the name of its'),
        (turns({**USER, "reasoning_content": "x"}), r'"messages\[0\]": reasoning_content in a turn of the user'),
        (turns({**USER, "thinking": "x"}), r'"messages\[0\]": thinking in a turn of the user; only assistants'),
        (
            turns(USER, {**ANSWER, "reasoning": "x", "thinking": "y"}),
            r'"messages\[1\]": reasoning and thinking differ, and both name the reasoning\. Keep one',
        ),
        (turns({**USER, "name": "Ann"}), r'"messages\[0\]": "name" would not be read; .*data\.ignore: \[name\]'),
        (turns(USER, {**ANSWER, "Weight": 0}), r'"messages\[1\]": "Weight" would not be read; .* weight,'),
        (turns(USER, {**ANSWER, "weight": 0.5}), r'"messages\[1\]\.weight": expected 0 .* or 1 .*, found 0\.5\. Round'),
        (turns(USER, {**ANSWER, "train": "yes"}), r"\"messages\[1\]\.train\": expected 0 .*, found 'yes'"),
        (turns({**USER, "loss": True}, ANSWER), r'"messages\[0\]\.loss": True asks to learn a turn of the user'),
        (
            turns(USER, {**ANSWER, "weight": 1, "loss": False}),
            r'"messages\[1\]": weight and loss differ in whether the turn is learnt\. Keep one',
        ),
        (
            {"conversations": [{"from": "human", "value": "x"}, {"from": "bing", "value": "y"}]},
            r"\"conversations\[1\]\": ShareGPT's form with unknown \"from\" 'bing'; expected one of system, human,",
        ),
        (
            {"instruction": "x", "output": "y"},
            r"found \['instruction', 'output'\]\. Alpaca's form is read with data\.columns: "
            r"\{prompt: instruction, completion: output\}",
        ),
        ({"text": "x", "input": "y"}, r'has "input" beside "text"; it belongs to a "prompt"'),
        ({"prompt": "x", "input": 3}, r'"input": expected text, found int'),
        *[
            ({"prompt": "x", "input": none}, r'"input": .* stands for none.* Write null .*data\.ignore: \[input\]')
            for none in ("<noinput>", "nan", " None", "N/A")
        ],
        ({"prompt": "x", "tools": [{}]}, r'has "tools" beside "prompt"; it belongs to a "messages"'),
        ({"text": "x", "chat_template_kwargs": {"a": 1}}, r'has "chat_template_kwargs" beside "text"'),
        ({**turns(USER), "tools": {"name": "f"}}, r'"tools": expected a list of objects'),
        ({**turns(USER), "tools": ["f"]}, r'"tools": expected a list of objects'),
        ({**turns(USER), "tools": "[{"}, r'"tools": a text that is no JSON'),
        ({**turns(USER), "tools": '[{"f": 1, "f": 2}]'}, r'"tools": an object in its text has the key "f" twice'),
        ({**turns(USER), "chat_template_kwargs": [1]}, r'"chat_template_kwargs": expected an object .*found list'),
        (
            {**turns(USER), "chat_template_kwargs": {"tools": [], "chat_template": "x"}},
            r'"chat_template_kwargs": chat_template: of apply_chat_template itself, and not read from rows\. Drop it',
        ),
        (
            {**turns(USER), "chat_template_kwargs": {"documents": [{"text": "x"}]}},
            r'"chat_template_kwargs": documents: .*not read from rows.* such as documents, goes into a turn',
        ),
        (turns({**USER, "name": "", "refusal": None, "audio": 0}), r'"messages\[0\]": "audio" would not be read'),
        ({**turns(USER), "conversations": [USER]}, r'has both "messages" and "conversations"; expected one of'),
        ({"prompt": "x", "conversations": [USER]}, r'has both "prompt" and "conversations"; expected one of'),
        (
            {"instruction": "x", "input": "y", "output": "z", "text": "xyz"},
            r'has "input" beside "text"\. Alpaca\'s form is read with data\.columns: \{prompt: instruction, '
            r"completion: output\}, .*; data\.ignore: \[text\] leaves out .*data\.ignore: \[input\] does",
        ),
        (turns(USER, {**ANSWER, "reasoning_content": 3}), r"reasoning_content\": expected text, found int"),
        (turns(ANSWER, USER), r'"messages": expected a user turn first, .*found the assistant\'s\. Drop'),
        (turns({"role": "system", "content": "x"}), r"expected a user turn first, .*found none"),
        (turns({"role": "system", "content": "x"}, ANSWER), r"expected a user turn first, .*found the assistant's"),
        (turns(USER, {"role": "system", "content": "x"}), r'"messages": ends with a system turn'),
        ({"prompt": ""}, r'"prompt": empty; use "text" for a text without a prompt'),
        ({"prompt": []}, r'"prompt": expected a list of turns with role and content, found an empty list'),
        ({"prompt": [USER, ANSWER]}, r'"prompt": ends with a turn of the assistant, after which .* Move it to "comp'),
        ({"prompt": [ANSWER, USER]}, r'"prompt": expected a user turn first, .*found the assistant\'s'),
        ({"prompt": [USER], "completion": [USER]}, r'"completion": expected turns of the assistant first and last, f'),
        ({"prompt": [USER], "completion": [ANSWER, USER]}, r"found one of the user\. Move what comes before"),
        ({"prompt": [USER], "completion": []}, r'"completion": expected a list of turns .*found an empty list'),
        ({"prompt": [USER], "completion": " "}, r'"completion": empty; use null where the teacher is to write it'),
        ({"prompt": [USER], "input": "x"}, r'has "input" beside turns in "prompt"\. Write it into a turn; data\.ign'),
        ({"prompt": [{"role": "user"}]}, r'"prompt\[0\]\.content": expected text, found NoneType'),
        ({"prompt": "x", "completion": [ANSWER]}, r'"completion": expected text, found list\. Put turns into "messa'),
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


def test_reasoning_has_three_names_and_may_be_nothing(tmp_path: Path) -> None:
    written = [
        {"reasoning_content": "So."},
        {"reasoning": "So."},
        {"thinking": "So."},
        {"thinking": "So.", "reasoning": "So."},
    ]
    thought = read(tmp_path, *(turns(USER, {**ANSWER, **keys}) for keys in written))
    assert {example.messages for example in thought if isinstance(example, Conversation)} == {
        (Message("user", "Hi"), Message("assistant", "Hello", "So."))
    }
    assert len({example.id for example in thought}) == 1
    nothing = [{"reasoning_content": None}, {"reasoning": ""}, {"thinking": " "}, {}]
    plain = read(tmp_path, *(turns(USER, {**ANSWER, **keys}) for keys in nothing))
    assert plain == [plain[-1]] * 4


@pytest.mark.parametrize("key", ["weight", "loss", "train", "trainable"])
def test_a_turn_can_be_shown_and_not_learnt(tmp_path: Path, key: str) -> None:
    kinds = [{key: 0}, {key: False}, {key: 0.0}, {key: 1}, {key: True}, {key: None}, {}]
    read_in = read(tmp_path, *(turns({**USER, key: 0}, {**ANSWER, **kind}) for kind in kinds))
    assert [example.messages[1].learnt for example in read_in if isinstance(example, Conversation)] == [False] * 3 + [
        True
    ] * 4
    assert [example.content[1][0] for example in read_in] == [["user", "Hi", None]] * 7
    assert [example.content[1][1] for example in read_in] == [["assistant", "Hello", None, False]] * 3 + [
        ["assistant", "Hello", None]
    ] * 4
    assert len({example.id for example in read_in}) == 2
    for example in read_in:
        assert Conversation.of(json.loads(json.dumps(example.content))) == example


def test_texts_of_parts_are_joined_as_they_are_written(tmp_path: Path) -> None:
    parts = [
        {"type": "text", "text": "Hi "},
        {"type": "text", "text": "", "image": None},
        {"type": "text", "text": "there"},
    ]
    (example,) = read(tmp_path, turns({**USER, "content": parts}))
    assert example == read(tmp_path, turns({**USER, "content": "Hi there"}))[0]


def test_the_form_of_sharegpt_is_read_under_its_name_or_the_recipes(tmp_path: Path) -> None:
    said = [
        {"from": "system", "value": "Be kind."},
        {"from": "human", "value": "Hi"},
        {"from": "gpt", "value": "Hello", "weight": 0},
    ]
    plain = turns({"role": "system", "content": "Be kind."}, USER, {**ANSWER, "weight": 0})
    expected = read(tmp_path, plain)
    assert read(tmp_path, {"conversations": said}) == expected
    assert read(tmp_path, {"turns": said}, messages="turns") == expected
    assert read(tmp_path, {"conversations": plain["messages"]}) == expected
    with pytest.raises(DataError, match='has both "text" and "conversations"'):
        read(tmp_path, {"conversations": said, "text": "x"})
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"conversations": said, "text": "x"}))
    assert list(read_dialogues(path, Columns(), how=Reading(frozenset({"text"})))) == expected
    assert read(tmp_path, {"conversations": [], "text": "x"}) == read(tmp_path, {"text": "x"})
    # A column that the recipe gives this name is what the recipe says.
    assert read(tmp_path, {"conversations": "x"}, prompt="conversations") == read(tmp_path, {"prompt": "x"})


def test_alpacas_input_follows_the_instruction_after_a_blank_line(tmp_path: Path) -> None:
    names = {"prompt": "instruction", "completion": "output"}
    row = {"instruction": "Add.", "input": "2 and 3", "output": "5"}
    with_input, without, empty = read(tmp_path, row, {**row, "input": None}, {**row, "input": " "}, **names)
    assert with_input == read(tmp_path, {"prompt": "Add.\n\n2 and 3", "completion": "5"})[0]
    assert without == empty == read(tmp_path, {"prompt": "Add.", "completion": "5"})[0]
    assert read(tmp_path, {**row, "input": None, "more": "2 and 3"}, input="more", **names) == [with_input]


@pytest.mark.parametrize(
    ("row", "columns", "plain"),
    [
        (
            {"input": "2 + 2?", "output": "4"},
            {"prompt": "input", "completion": "output"},
            {"prompt": "2 + 2?", "completion": "4"},
        ),
        (
            {"q": "2 + 2?", "input": "4"},
            {"prompt": "q", "completion": "input"},
            {"prompt": "2 + 2?", "completion": "4"},
        ),
        ({"input": "All."}, {"text": "input"}, {"text": "All."}),
        ({"input": [USER, ANSWER]}, {"messages": "input"}, turns(USER, ANSWER)),
        ({"tools": "x", "completion": "y"}, {"prompt": "tools"}, {"prompt": "x", "completion": "y"}),
        ({"chat_template_kwargs": "x"}, {"text": "chat_template_kwargs"}, {"text": "x"}),
        ({"prompt": "x", "input": "d"}, {"domain": "input"}, {"prompt": "x", "domain": "d"}),
        (
            {"text": "Write f", "code": "def f(): pass"},
            {"prompt": "text", "completion": "code"},
            {"prompt": "Write f", "completion": "def f(): pass"},
        ),
        (
            {"text": [USER, ANSWER], "tools": [{"a": 1}]},
            {"messages": "text"},
            {**turns(USER, ANSWER), "tools": [{"a": 1}]},
        ),
        ({"q": "x", "text": "y"}, {"prompt": "q", "completion": "text"}, {"prompt": "x", "completion": "y"}),
        (
            {"completion": "x", "answer": "y"},
            {"prompt": "completion", "completion": "answer"},
            {"prompt": "x", "completion": "y"},
        ),
        ({"prompt": "x"}, {"text": "prompt"}, {"text": "x"}),
    ],
)
def test_a_column_that_the_recipe_names_is_nothing_else_by_default(
    tmp_path: Path, row: dict[str, Any], columns: dict[str, str], plain: dict[str, Any]
) -> None:
    assert read(tmp_path, row, **columns) == read(tmp_path, plain)


def test_kinds_that_a_recipe_leaves_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 1 has no \"messages\" or \"text\"; found \['body'\]"):
        read(tmp_path, {"body": "x"}, prompt="text")
    with pytest.raises(DataError, match='"completion" beside "prompt"'):
        read(tmp_path, {"prompt": "x", "completion": "y"}, text="prompt")
    with pytest.raises(DataError, match='"tools" beside "messages"'):
        read(tmp_path, {"messages": "x", "tools": [{}]}, prompt="messages")


def test_the_columns_that_are_read_are_known(tmp_path: Path) -> None:
    names = columns_read(Columns(messages="turns"))
    assert {"turns", "tools", "input", "prompt", "conversations", "id", "domain"} <= names
    assert not {"messages", "label", "weight"} & names


def test_a_row_cannot_set_what_the_rendering_sets() -> None:
    own = inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters
    assert set(own) - {"self", "kwargs"} <= ARGUMENTS


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.sampled_from(["user", "assistant", "system"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "messages", "prompt", "text", "tools", "weight", "from", "thinking"]),
            inner,
            max_size=3,
        )
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
