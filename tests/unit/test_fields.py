"""Fields that nothing reads: all are counted, and those that carry meaning are refused."""

from contextlib import nullcontext
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from ruamel.yaml import YAML

from potstill.data.columns import Columns
from potstill.data.dialogue_rows import read_dialogues
from potstill.data.fields import MOST_NAMES, OTHERS, in_yaml
from potstill.data.pairs import read_pairs
from potstill.data.prepare import DataSettings, Read, prepare
from potstill.data.reading import Reading
from potstill.data.rows import read_rows
from potstill.data.tagged import read_tagged
from potstill.errors import DataError
from tests.unit.test_rows import lines

METADATA = {
    "source": "web",
    "url": "https://example.org/1",
    "meta": {"seen": 3},
    "score": 0.7,
    "split": "train",
    "lang": "en",
    "title": "A title",
    "date": "2024-01-01",
    "idx": 7,
    "category": "sport",
    "topic": "x",
    "weight": 1.0,
    "author": "Ann",
    "tags": ["a", "b"],
    "comment": "looks fine",
    "rating": 5,
}
FORMS: list[tuple[Read, dict[str, Any]]] = [
    (read_rows, {"text": "a", "label": "x"}),
    (read_tagged, {"tokens": ["a"], "tags": ["O"]}),
    (read_pairs, {"source": "a", "target": "b"}),
    (read_dialogues, {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}),
    (read_dialogues, {"prompt": "a", "completion": "b"}),
    (read_dialogues, {"text": "a"}),
]


def refusal(tmp_path: Path, read: Read, *records: Any, ignore: tuple[str, ...] = (), **columns: str) -> str:
    path = lines(tmp_path / "rows.jsonl", *records)
    with pytest.raises(DataError) as caught:
        read(path, Columns(**columns), how=Reading(frozenset(ignore)))
    return str(caught.value)


@pytest.mark.parametrize(("read", "row"), FORMS)
def test_rows_with_the_metadata_of_real_data_sets_are_read_and_its_fields_listed(
    tmp_path: Path, read: Read, row: dict[str, Any]
) -> None:
    how = Reading()
    path = lines(tmp_path / "rows.jsonl", METADATA | row, METADATA | row | {"url": None, "title": " ", "meta": {}})
    assert len(read(path, Columns(), how=how)) == 2
    unread = how.files[path].unread
    assert unread.keys() == METADATA.keys() - row.keys()
    assert unread["author"] == 2 and unread["url"] == unread["title"] == unread["meta"] == 1, "nothing counts as none"
    assert list(unread.values()) == sorted(unread.values(), reverse=True)


MEANINGS: list[tuple[str, Any]] = [
    ("weight", 0.5),
    ("Sample_Weight", 2),
    ("reasoning", "since"),
    ("thinking", "since"),
]
OF_TEMPLATES: list[tuple[str, Any]] = [
    ("tools", [{"type": "function", "function": {"name": "f"}}]),
    ("chat_template_kwargs", {"enable_thinking": False}),
]


@pytest.mark.parametrize(
    ("read", "row", "name", "value"),
    [(*form, *meaning) for form in FORMS for meaning in MEANINGS]
    + [(*form, *meaning) for form in FORMS for meaning in OF_TEMPLATES if form[0] is not read_dialogues],
)
def test_a_field_with_a_meaning_is_refused_until_the_recipe_says_that_it_may_go(
    tmp_path: Path, read: Read, row: dict[str, Any], name: str, value: Any
) -> None:
    said = refusal(tmp_path, read, row, row | {name: value}, row | {name: value})
    assert said.startswith(str(tmp_path / "rows.jsonl")) and "\n" not in said
    assert f'2 of 3 rows have "{name}", first line 2, which is not read' in said
    assert f"data.ignore: [{name}] leaves it out" in said
    how = Reading(frozenset({name}))
    assert len(read(tmp_path / "rows.jsonl", Columns(), how=how)) == 3
    notes = how.files[tmp_path / "rows.jsonl"]
    assert (notes.ignored, notes.unread) == ({name: 2}, {})
    assert len(read(lines(tmp_path / "none.jsonl", row | {name: None}), Columns(), how=Reading())) == 1


@pytest.mark.parametrize("row", [row for read, row in FORMS if read is read_dialogues and "messages" not in row])
@pytest.mark.parametrize(("name", "value"), OF_TEMPLATES)
def test_what_chat_templates_are_given_is_refused_in_rows_without_messages(
    tmp_path: Path, row: dict[str, Any], name: str, value: Any
) -> None:
    said = refusal(tmp_path, read_dialogues, row | {name: value})
    assert f'line 1 has "{name}" beside' in said and f"data.ignore: [{name}] leaves it out" in said
    assert len(read_dialogues(tmp_path / "rows.jsonl", Columns(), how=Reading(frozenset({name})))) == 1


def test_a_field_that_the_recipe_names_is_read_whatever_it_is_called(tmp_path: Path) -> None:
    path = lines(tmp_path / "rows.jsonl", {"premise": "a", "target": "x", "weight": "heavy"})
    how = Reading()
    [row] = read_rows(path, Columns(text="premise", label="target", domain="weight"), how=how)
    assert (row.text, row.label, row.domain, how.files[path].unread) == ("a", "x", "heavy", {})


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("premise", "hypothesis"),
        ("hypothesis", "premise"),
        ("sentence1", "sentence2"),
        ("sentence2", "sentence1"),
        ("question1", "question2"),
        ("question", "sentence"),
        ("question", "context"),
        ("query", "passage"),
        ("body", "text2"),
        ("text", "text2"),
        ("text_a", "text_b"),
        ("text", "hypothesis"),
        ("review", "review2"),
        ("prompt", "response"),
        ("claim", "Evidence"),
        ("headline", "body"),
    ],
)
def test_a_second_text_is_refused(tmp_path: Path, first: str, second: str) -> None:
    row = {first: "A knife.", second: "No knife.", "label": "x"}
    assert f'"{second}", first line 1' in refusal(tmp_path, read_rows, row, text=first)
    assert "a second text" in refusal(tmp_path, read_rows, row, text=first)
    # A number is no text.
    assert read_rows(lines(tmp_path / "number.jsonl", row | {second: 3}), Columns(text=first))


@pytest.mark.parametrize("name", ["sentiment", "Label", "labels", "target", "label_name", "class", "y", "my_column"])
def test_a_column_that_looks_like_the_label_of_rows_without_one_is_refused(tmp_path: Path, name: str) -> None:
    # my_column has no such name: it is found by its values, which are classes.
    rows = [{"text": "a", "label": "pos"}, {"text": "b", "label": "neg"}, {"text": "c", name: "pos"}]
    said = refusal(tmp_path, read_rows, *rows)
    assert f'1 of 3 rows have no "label", and 1 of these have "{name}", first line 3' in said
    assert "data.columns.label" in said and f"data.ignore: [{name}]" in said
    both = [rows[0] | {name: "pos"}, *rows[1:]]
    assert len(read_rows(lines(tmp_path / "both.jsonl", *both), Columns())) == 3, "labelled rows have it beside theirs"
    other = [*rows[:2], {"text": "c", "my_column": "Berlin"}]
    assert len(read_rows(lines(tmp_path / "other.jsonl", *other), Columns())) == 3


@pytest.mark.parametrize("name", ["Label", "labels", "target", "sentiment"])
def test_the_same_in_a_file_without_a_label(tmp_path: Path, name: str) -> None:
    assert f'2 of these have "{name}"' in refusal(
        tmp_path, read_rows, {"text": "a", name: "x"}, {"text": "b", name: "y"}
    )


@pytest.mark.parametrize("name", ["category", "topic", "tags", "answer"])
def test_what_is_often_metadata_looks_like_the_label_beside_labelled_rows_alone(tmp_path: Path, name: str) -> None:
    rows = [{"text": "a", name: "x"}, {"text": "b", name: "y"}]
    how = Reading()
    assert len(read_rows(lines(tmp_path / "open.jsonl", *rows), Columns(), how=how)) == 2
    assert how.files[tmp_path / "open.jsonl"].unread == {name: 2}
    assert f'2 of these have "{name}"' in refusal(tmp_path, read_rows, *rows, {"text": "c", "label": "z"})
    prompts = lines(tmp_path / "prompts.jsonl", {"prompt": "a", "answer": "x"})
    assert len(read_dialogues(prompts, Columns(), how=Reading())) == 1
    assert "data.columns.tags" in refusal(tmp_path, read_tagged, {"tokens": ["a"], "tag": ["O"]}, tags="ner_tags")


@pytest.mark.parametrize("value", [1, 1.0, True, "1", "1.0", " 1 ", "2.5 kg", ["1"], [1, 1.0], "nan"])
def test_a_weight_of_one_or_of_a_thing_is_no_weight_of_the_row(tmp_path: Path, value: Any) -> None:
    path = lines(tmp_path / "rows.jsonl", {"text": "a", "label": "x", "weight": value})
    assert len(read_rows(path, Columns(), how=Reading())) == 1


@pytest.mark.parametrize("value", [0, 2, 0.5, False, "0.5", "1.5e0", "high", [1, 0.5], {"a": 2}, 10**400])
def test_another_weight_is_refused_however_it_is_written(tmp_path: Path, value: Any) -> None:
    for name in ("weight", "sample_weights"):
        assert f'"{name}", first line 1' in refusal(tmp_path, read_rows, {"text": "a", "label": "x", name: value})


def test_a_decimal_of_a_table_is_a_number(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    for weight, refused in (("1.00", False), ("0.50", True)):
        pyarrow.parquet.write_table(
            pa.Table.from_pylist([{"text": "a", "label": "x", "weight": Decimal(weight)}]), path
        )
        with pytest.raises(DataError, match='"weight"') if refused else nullcontext():
            read_rows(path, Columns(), how=Reading())


def test_a_second_text_that_is_the_same_in_all_rows_is_none(tmp_path: Path) -> None:
    rows = [{"text": name, "label": "x", "query": "NO_QUERY"} for name in "abc"]
    how = Reading()
    path = lines(tmp_path / "rows.jsonl", *rows)
    assert len(read_rows(path, Columns(), how=how)) == 3
    assert how.files[path].unread == {"query": 3}
    assert '"query", first line 1' in refusal(tmp_path, read_rows, *rows[:2], rows[2] | {"query": "a"})
    assert '"query", first line 1' in refusal(tmp_path, read_rows, *rows, {"text": "d", "label": "x"})
    assert '"query", first line 1' in refusal(tmp_path, read_rows, rows[0]), "of one row nobody can say it"


@pytest.mark.parametrize(
    ("read", "row", "name", "setting"),
    [
        (read_tagged, {"tokens": ["a"]}, "ner_tags", "tags"),
        (read_pairs, {"source": "a"}, "summary", "target"),
        (read_pairs, {"source": "a"}, "output", "target"),
        (read_dialogues, {"prompt": "a"}, "response", "completion"),
        (read_dialogues, {"messages": [{"role": "user", "content": "a"}]}, "output", "completion"),
    ],
)
def test_the_same_for_tags_and_responses(
    tmp_path: Path, read: Read, row: dict[str, Any], name: str, setting: str
) -> None:
    assert f"data.columns.{setting}" in refusal(tmp_path, read, row | {name: "x"})


@pytest.mark.parametrize(
    ("read", "row", "columns"),
    [
        (read_pairs, {"source": "a", "target": "b", "input": "c"}, {}),
        (read_pairs, {"input": "a", "output": "b", "instruction": "c"}, {"source": "input", "target": "output"}),
        (read_pairs, {"question": "a", "answer": "b", "context": "c"}, {"source": "question", "target": "answer"}),
        (read_dialogues, {"prompt": "a", "completion": "b", "context": "c"}, {}),
        (read_dialogues, {"prompt": "a", "completion": "b", "system": "c"}, {}),
        (read_dialogues, {"prompt": "a", "completion": "b", "history": [["c", "d"]]}, {}),
        (read_dialogues, {"prompt": "a", "completion": "b", "label": False}, {}),
        (read_dialogues, {"prompt": "a", "chosen": "b", "rejected": "c"}, {}),
        (read_dialogues, {"messages": FORMS[3][1]["messages"], "images": ["c.png"]}, {}),
    ],
)
def test_what_a_response_depends_on_is_refused_where_it_is_not_read(
    tmp_path: Path, read: Read, row: dict[str, Any], columns: dict[str, str]
) -> None:
    assert "which is not read" in refusal(tmp_path, read, row, **columns)


def test_columns_of_a_table_that_a_row_does_not_fill_count_for_nothing(tmp_path: Path) -> None:
    records = [
        {"text": "a", "label": "x", "weight": None, "score": float("nan"), "list": []},
        {"text": "b", "label": None, "weight": None, "score": 1.0, "list": None},
    ]
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pa.Table.from_pylist(records), path)
    how = Reading()
    assert len(read_rows(path, Columns(), how=how)) == 2
    assert how.files[path].unread == {"score": 1}


def test_rows_whose_fields_are_named_by_their_content_take_bounded_memory(tmp_path: Path) -> None:
    how = Reading()
    path = lines(tmp_path / "rows.jsonl", *({"text": "a", f"page {n}": 1} for n in range(MOST_NAMES + 50)))
    read_rows(path, Columns(), how=how)
    assert len(how.files[path].unread) == MOST_NAMES + 1 and how.files[path].unread[OTHERS] == 50
    late = {"text": "a", "weight": 3}
    records = [*({"text": "a", f"page {n}": 1} for n in range(MOST_NAMES + 50)), late]
    assert "weight" in refusal(tmp_path, read_rows, *records)


def test_all_that_is_wrong_with_all_files_comes_in_one_error(tmp_path: Path) -> None:
    lines(
        tmp_path / "train.jsonl", {"text": "a", "label": -1, "weight": 2}, {"text": "b", "label": "x", "tools": ["f"]}
    )
    lines(tmp_path / "test.jsonl", {"text": "c", "label": "x"}, {"body": "d"})
    data = DataSettings(train="train.jsonl", test="test.jsonl", validation="none.jsonl")
    with pytest.raises(DataError) as caught:
        prepare(data, tmp_path, read_rows)
    said = str(caught.value).splitlines()
    parts = [
        'train.jsonl: 1 of 2 rows have "tools"',
        'train.jsonl: 1 of 2 rows have "weight"',
        "test.jsonl: line 2 has no",
    ]
    parts += ["none.jsonl: no such file", 'data: "-1" in 1 of 3 labels', "some labels are numbers"]
    assert len(said) == len(parts)
    assert all(part in line for part, line in zip(parts, said, strict=True))


def test_settings_that_say_nothing_leave_the_recipe_as_it_was(tmp_path: Path) -> None:
    data = DataSettings(train="a", validation=0.1, test=0.1)
    before = {"train", "validation", "test", "adapt", "columns", "deduplicate", "near_copies"}
    assert data.model_dump(mode="json").keys() == before
    said = DataSettings(train="a", validation=0.1, test=0.1, ignore=("x",), on_error="skip", allow_labels=(-1,))  # type: ignore[arg-type]
    assert said.model_dump(mode="json").keys() == before | {"ignore", "on_error", "allow_labels"}
    assert said.allow_labels == ("-1",) and DataSettings.model_validate(said.model_dump(mode="json")) == said


@pytest.mark.parametrize(
    "name", ["null", "True", "no", "ON", "text", "y", "_id", "1a", "a b", "~", "naïve", "a:b", "#"]
)
def test_a_name_stands_in_a_recipe_as_it_is(name: str) -> None:
    assert YAML(typ="safe", pure=True).load(f"[{in_yaml(name)}]") == [name]
    assert (in_yaml(name) == name) == (name in ("text", "y", "_id"))
