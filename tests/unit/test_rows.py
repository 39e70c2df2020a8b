"""Reading rows: every text comes back exactly, and every bad row is one clear error."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from potstill.data.columns import Columns
from potstill.data.files import read_records
from potstill.data.prepare import DataSettings, prepare
from potstill.data.rows import Row, read_rows, rows_fingerprint, text_id, texts_fingerprint
from potstill.errors import DataError
from potstill.tasks import TextClassification

FAST = settings(max_examples=25, deadline=None, derandomize=True)


def lines(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), "utf-8")
    return path


def read(tmp_path: Path, content: bytes, **columns: str) -> list[Row]:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    return list(read_rows(path, Columns(**columns)))


def test_rows_come_in_order_with_id_text_and_label(tmp_path: Path) -> None:
    rows = read(tmp_path, b'{"id": 7, "text": "a", "label": 1}\n\n{"text": "b", "label": null}\r\n{"text": "b"}')
    assert [(row.text, row.label) for row in rows] == [("a", "1"), ("b", None), ("b", None)]
    assert rows[0].id == "7"
    assert rows[1].id == rows[2].id and len(rows[1].id) == 16


def test_columns_can_have_other_names(tmp_path: Path) -> None:
    rows = read(tmp_path, b'{"key": "k", "body": "t", "class": "c"}', id="key", text="body", label="class")
    assert rows == [Row("k", "t", "c")]


@pytest.mark.parametrize("inside", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c", "\u202e", "\U0001f600"])
def test_unicode_line_ends_inside_a_text_do_not_cut_the_row(tmp_path: Path, inside: str) -> None:
    text = f"before{inside}after"
    escaped = inside < "\x20"
    content = json.dumps({"text": text}, ensure_ascii=escaped) + "\n" + json.dumps({"text": "next"}) + "\n"
    assert [row.text for row in read(tmp_path, content.encode())] == [text, "next"]


@FAST
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_every_text_comes_back_exactly(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.mktemp("rows")
    lines(folder / "rows.jsonl", {"text": text, "id": "x"})
    assert list(read_rows(folder / "rows.jsonl", Columns())) == [Row("x", text, None)]


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    assert read(tmp_path, b'\xef\xbb\xbf{"id": "a", "text": "t"}') == [Row("a", "t", None)]


GOOD = b'{"text": "ok"}\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"0 rows\. Nothing written"),
        (b"\n \n", r"0 rows\. Nothing written"),
        (GOOD * 2 + b'{"text": "cut', r"line 3: unterminated string .*\(file truncated\?\)"),
        (GOOD + b'{"text": "a"', r"line 2: .*\(file truncated\?\)"),
        (GOOD + b"{text: 1}\n" + GOOD, r"line 2: .* at column 2"),
        (GOOD + b'{"text": "a"} {"text": "b"}', "line 2: extra data"),
        (GOOD + b'{"body": "b"}', r'line 2 has no "text"; found \[\'body\'\]\. Set data\.columns\.text'),
        (GOOD + b'["text"]', "line 2: expected an object with \"?'?text.*found list"),
        (b"null", "line 1: expected an object .*found NoneType"),
        (GOOD + b'{"text": null}', 'line 2 "text": expected text, found NoneType. Drop the row; .*data.on_error: skip'),
        (GOOD + b'{"text": "a", "id": NaN}', r'line 2 "id": NaN is no id. Use null .*data.ignore: \[id\]'),
        (GOOD + b'{"data": {"text": "a"}}', r"""line 2 has no "text"; .* Its "data" has; .*jq -c '\.\["data"\]'"""),
        (GOOD + b'{"text": 3}', 'line 2 "text": expected text, found int'),
        (GOOD + b'{"text": "\\ud800"}', r'line 2 "text": U\+D800 is not valid Unicode'),
        (GOOD + b'{"text": "a", "id": "\\udfff"}', r'line 2 "id": U\+DFFF is not valid Unicode'),
        (GOOD + b'{"text": "a", "label": "\\udc00"}', r'line 2 "label": U\+DC00'),
        (GOOD + b'{"text": "a", "label": 0.5}', 'line 2 "label": expected a class name, found float'),
        (GOOD + b'{"text": "a", "label": true}', 'line 2 "label": expected a class name, found bool'),
        (GOOD + b'{"text": "a", "label": ["x"]}', 'line 2 "label": expected a class name, found list'),
        (GOOD + b'{"text": "a", "label": ""}', 'line 2 "label": empty; use null'),
        (GOOD + b'{"text": "a", "n": ' + b"9" * 5000 + b"}", "line 2: a number has too many digits"),
        (GOOD + b'{"text": ' + b"[" * 100_000, "line 2: nested too deeply"),
        ('{"text": "a"}'.encode("utf-16"), r"not UTF-8 \(byte 0.*iconv"),
        ('{"text": "ä"}'.encode("latin-1"), r"not UTF-8 \(byte 10"),
        (b'{"text": "' + b"a" * 10_000_001 + b'"}', "line 1: 10,000,013 characters; at most 10,000,000"),
    ],
)
def test_a_bad_row_gives_one_error_that_names_file_line_and_reason(
    tmp_path: Path, content: bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, content)
    assert str(caught.value).startswith(str(tmp_path / "rows.jsonl"))
    assert "\n" not in str(caught.value)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode(errors="ignore")))
def test_arbitrary_bytes_are_rows_or_a_data_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzzed-rows"
    folder.mkdir(exist_ok=True)
    try:
        assert read(folder, content)
    except DataError as error:
        assert "rows.jsonl" in str(error)


def test_a_file_that_is_missing_or_of_another_format_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: no such file"):
        read_rows(tmp_path / "none.jsonl", Columns())
    (tmp_path / "rows.xml").write_text("<a/>")
    with pytest.raises(DataError, match=r"unknown format '\.xml'; expected \.jsonl or \.parquet"):
        read_rows(tmp_path / "rows.xml", Columns())


def test_parquet_gives_the_same_rows_as_json_lines(tmp_path: Path) -> None:
    records = [{"id": "1", "text": "a\u2028b", "label": "x"}, {"id": "2", "text": "c", "label": None}]
    pyarrow.parquet.write_table(pa.Table.from_pylist(records), tmp_path / "rows.parquet")
    lines(tmp_path / "rows.jsonl", *records)
    from_parquet = list(read_rows(tmp_path / "rows.parquet", Columns()))
    assert from_parquet == list(read_rows(tmp_path / "rows.jsonl", Columns()))
    assert len(from_parquet) == 2


def test_a_parquet_file_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    texts = [f"{number} {'x' * 5_000}" for number in range(8_000)]
    pyarrow.parquet.write_table(pa.table({"text": texts}), tmp_path / "rows.parquet", use_dictionary=False)
    before = pa.default_memory_pool().bytes_allocated()
    pool = pa.default_memory_pool()
    most = 0
    for _ in read_records(tmp_path / "rows.parquet"):
        most = max(most, pool.bytes_allocated() - before)
    assert 0 < most < 20_000_000 < sum(map(len, texts))


def test_a_broken_parquet_file_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match=r"rows\.parquet: not a readable Parquet file"):
        read_rows(tmp_path / "rows.parquet", Columns())


def test_an_id_of_two_texts_is_named_with_both_lines(tmp_path: Path) -> None:
    content = b'{"id": "a", "text": "1"}\n{"id": "q17", "text": "2"}\n\n{"id": "q17", "text": "3"}\n'
    with pytest.raises(DataError, match=r'rows\.jsonl: Duplicate id "q17": line 2, line 4\. Give each row'):
        read(tmp_path, content)
    assert len(read(tmp_path, content.replace(b"3", b"2"))) == 3, "the same text again is a duplicate row"


def test_ids_that_each_file_counts_anew_can_be_left_out(tmp_path: Path) -> None:
    for name in ("train", "validation", "test"):
        rows = [{"row": number, "text": f"{name} {number}", "label": "x"} for number in range(3)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = DataSettings(
        train="train.jsonl",
        validation="validation.jsonl",
        test="test.jsonl",
        columns=Columns(id="row"),
        near_copies=None,
    )
    with pytest.raises(DataError, match=r'Duplicate id "0": in data\.test .*data\.ignore: \[row\] leaves all ids out'):
        prepare(data, tmp_path, read_rows)
    splits = prepare(data.model_copy(update={"ignore": ("row",)}), tmp_path, read_rows)
    assert [row.id for row in splits["test"].rows] == [text_id(f"test {number}") for number in range(3)]
    # To leave out ids does not help rows that have none.
    (tmp_path / "train.jsonl").write_text('{"text": "test 0", "label": "x"}')
    with pytest.raises(DataError, match=r"Duplicate id .* named by their text\.$"):
        prepare(data.model_copy(update={"ignore": ("row",), "deduplicate": False}), tmp_path, read_rows)


def test_fingerprints_depend_on_what_they_are_of() -> None:
    rows = [Row("1", "a", "x"), Row("2", "b", None)]
    relabelled = [Row("1", "a", "y"), Row("2", "b", None)]
    assert rows_fingerprint(rows) != rows_fingerprint(relabelled)
    assert texts_fingerprint(rows) == texts_fingerprint(relabelled)
    for changed in (rows[::-1], rows[:1], [Row("1", "a2", "x"), rows[1]], [Row("3", "a", "x"), rows[1]]):
        assert rows_fingerprint(changed) != rows_fingerprint(rows)
        assert texts_fingerprint(changed) != texts_fingerprint(rows)


def test_a_domain_is_read_and_belongs_to_the_content(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": "a", "text": "x", "domain": "law"}\n{"id": "b", "text": "y", "domain": null}\n')
    first, second = read_rows(path, Columns())
    assert (first.domain, second.domain) == ("law", None)
    # Rows without a domain have the fingerprint that they had before there were any.
    assert first.content == ["a", "x", None, "law"] and second.content == ["b", "y", None]
    path.write_text('{"id": "a", "text": "x", "field": 3}\n')
    assert [row.domain for row in read_rows(path, Columns(domain="field"))] == ["3"], "a number is its name"
    path.write_text('{"id": "a", "text": "x", "field": true}\n')
    with pytest.raises(DataError, match='line 1 "field": expected text, found bool'):
        read_rows(path, Columns(domain="field"))


@pytest.mark.parametrize(
    ("problem_type", "value", "message"),
    [
        ("single_label_classification", '["mit"]', "expected a class name, found list. Set task.problem_type"),
        ("multi_label_classification", '"mit"', "expected a list of class names, found str. A text with none has []"),
        ("multi_label_classification", '["mit", null]', "expected a list of class names, found null in it"),
        ("multi_label_classification", '["mit", 0.5]', "expected a class name, found float"),
        ("multi_label_classification", '["mit", ""]', "empty; use null"),
        ("regression", '"many"', "expected a number, found str"),
        ("regression", "true", "expected a number, found bool"),
        ("regression", "NaN", "expected a finite number"),
        ("regression", "1" + "0" * 400, "expected a finite number"),
    ],
)
def test_a_label_of_another_form_than_the_task_has_is_refused(
    tmp_path: Path, problem_type: str, value: str, message: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"text": "a", "label": {value}}}\n')
    with pytest.raises(DataError, match=re.escape(message)):
        TextClassification(problem_type=problem_type).read(path, Columns())


def test_labels_come_back_from_disk_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [
        '{"text": "a", "label": ["mit", "bsd", "mit"]}',
        '{"text": "b", "label": []}',
        '{"text": "c", "label": null}',
    ]
    path.write_text("\n".join(lines))
    rows = list(TextClassification(problem_type="multi_label_classification").read(path, Columns()))
    assert [row.label for row in rows] == [("bsd", "mit"), (), None]
    assert [row.classes for row in rows] == [("bsd", "mit"), (), ()]
    assert [row.labelled for row in rows] == [True, True, False]
    path.write_text('{"text": "a", "label": 3}\n{"text": "b", "label": -0.5}\n')
    rows = list(TextClassification(problem_type="regression").read(path, Columns()))
    assert [(row.label, row.classes) for row in rows] == [(3.0, ()), (-0.5, ())]
    assert all(isinstance(row.label, float) for row in rows)


@pytest.mark.parametrize(
    ("one", "other"), [("prompt", "completion"), ("messages", "text"), ("text", "label"), ("source", "target")]
)
def test_one_name_for_two_columns_is_refused(one: str, other: str) -> None:
    with pytest.raises(ValidationError, match=f'{one} and {other} are both "x"; expected a column for each'):
        Columns.model_validate({one: "x", other: "x"})
    assert Columns.model_validate({one: other, other: one}) == Columns(**{one: other, other: one})
    assert Columns.model_validate({"id": "x", one: "x"}).id == "x", "a text can name its row"


@pytest.mark.parametrize(("one", "other"), [("text", "label"), ("tokens", "tags"), ("source", "target")])
def test_a_column_that_takes_the_name_of_one_read_beside_it_is_refused(one: str, other: str) -> None:
    for renamed, own in ((one, other), (other, one)):
        fix = f'{one} and {other} are both "{own}"; expected a column for each. Set data.columns.{own} to the one'
        with pytest.raises(ValidationError, match=fix):
            Columns.model_validate({renamed: own})
    assert Columns(prompt="text").given_away == {"text"}, "a row has one of these"
