"""Tables in text: what is a row of them, and what is said where that is not known."""

import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from potstill.data import csv_rows
from potstill.data.cells import Cell
from potstill.data.columns import Columns
from potstill.data.dialogue_rows import read_dialogues
from potstill.data.files import read_records
from potstill.data.number_checks import number_in
from potstill.data.reading import Reading
from potstill.data.rows import classes_in, read_rows
from potstill.data.tagged import read_tagged
from potstill.errors import DataError
from tests.unit.test_files import written


def table(tmp_path: Path, text: str, name: str = "rows.csv") -> Path:
    return written(tmp_path, text, name)


def test_line_ends_within_quotes_belong_to_the_text_and_lines_are_counted_as_editors_do(tmp_path: Path) -> None:
    path = table(tmp_path, '\ufefftext,label\r\n"a\r\nb\nc",x\r\n\r\n"d, ""e""",y\r\nf,\r\n')
    assert list(read_records(path)) == [
        ("line 2", {"text": "a\r\nb\nc", "label": "x"}),
        ("line 6", {"text": 'd, "e"', "label": "y"}),
        ("line 7", {"text": "f", "label": None}),
    ]


def test_values_stay_as_they_are_written(tmp_path: Path) -> None:
    path = table(tmp_path, "id,text,label\n007,1.0,1.0\n008, 1e5 ,01\n1.50,NaN,true\n")
    found = [(row.id, row.text, row.label) for row in read_rows(path, Columns())]
    assert found == [("007", "1.0", "1.0"), ("008", " 1e5 ", "01"), ("1.50", "NaN", "true")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("text,label,text\na,x,b\n", 'line 1: 2 columns are named "text"'),
        ("a great film,pos\na bad one,neg\n", r"line 1: no column is read of the header \['a great film', 'pos'\]"),
        ("text,label\na,x\nb\n", "line 3: 1 fields, and 2 in the header"),
        ("text,label\na,x\nb, c,x\nd,x\n", "line 3: 3 fields, and 2 in the header. Put a text with a comma in quotes"),
        ('text,label\na,x\n"b" c,x\n', "line 3: after the closing quote of a field stands no comma"),
        ('text,label\na,x\n"b,x\nc,x\n', r"lines 3 to 4: a quote that is opened and not closed \(file truncated\?\)"),
        ('text,label\na,x\n"b,x\n"c", x\n', "lines 3 to 4: after the closing quote of a field stands no comma"),
        ('text,label\na,x\n"b,x\n","c\nd,x\n",', "lines 3 to 4: 3 fields|lines 3 to 6|lines 3 to 4"),
        ("text,label\ra,x\rb,y\r", r"line 1: a carriage return that ends no line.*tr "),
        ("text,label\n", "0 rows. Nothing written"),
        ("", "0 rows. Nothing written"),
        ("body,label\na,x\n", r"line 2 has no \"text\"; found \['body', 'label'\]"),
        ("text;label\na;x\nb\n", "line 3: 1 fields, and 2 in the header. Put a text with a semicolon"),
    ],
)
def test_what_is_wrong_with_a_table_is_one_error_with_its_lines(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_rows(table(tmp_path, text), Columns())
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "rows.csv"))


def test_rows_that_are_not_known_to_be_one_are_never_skipped(tmp_path: Path) -> None:
    skip = Reading(on_error="skip")
    path = table(tmp_path, 'text,label\na,x\nb\n"c" d,x\ne,x\n')
    assert [row.text for row in read_rows(path, Columns(), how=skip)] == ["a", "e"]
    assert skip.files[path].bad == 2
    for text in ('a,x\n"b,x\nc,x\n', 'a,x\n"b,x\n"c", x\nd,x\n', 'a,x\n"b,x\nc,x\nd",e,x\n'):
        with pytest.raises(DataError, match="lines 3 to "):
            read_rows(table(tmp_path, f"text,label\n{text}"), Columns(), how=Reading(on_error="skip"))


def test_a_row_never_takes_the_place_of_a_header_that_is_broken(tmp_path: Path) -> None:
    path = table(tmp_path, '"text"x,label\ntext,label\na,x\n')
    with pytest.raises(DataError, match="line 1: after the closing quote of a field stands no comma"):
        read_rows(path, Columns(), how=Reading(on_error="skip"))


def test_a_quote_that_is_a_plain_character_of_a_tsv_swallows_no_row(tmp_path: Path) -> None:
    path = table(tmp_path, 'text\tlabel\nHe said "no"\tx\n"She" left\ty\n', "rows.tsv")
    with pytest.raises(DataError, match=r"line 3: after the closing quote.*quoting=3"):
        read_rows(path, Columns())
    # By its quotes alone this would be one row.
    path = table(tmp_path, 'text\tlabel\n"Foo bar\tx\nbaz"\ty\n', "rows.tsv")
    with pytest.raises(DataError, match=r"lines 2 to 3: a tab and the end of a line within quotes.*quoting=3"):
        read_rows(path, Columns(), how=Reading(on_error="skip"))
    path = table(tmp_path, 'text\tlabel\n"a\nb"\tx\n"c\td"\ty\n', "rows.tsv")
    assert [row.text for row in read_rows(path, Columns())] == ["a\nb", "c\td"]


@pytest.mark.parametrize("text", ["text;label\na, b;x\n", "text\tlabel\na, b;\tx\n", 'text,label\n"a, b",x\n'])
def test_the_header_shows_what_parts_the_fields(tmp_path: Path, text: str) -> None:
    assert [row.label for row in read_rows(table(tmp_path, text), Columns())] == ["x"]


def test_a_column_without_a_name_is_counted_as_pandas_calls_it(tmp_path: Path) -> None:
    how = Reading()
    path = table(tmp_path, ",text , label,\n0,a,x,\n1,b,y,\n")
    assert [row.label for row in read_rows(path, Columns(), how=how)] == ["x", "y"]
    assert how.files[path].unread == {"Unnamed: 0": 2}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("3.5", 3.5),
        ("-1e-3", -0.001),
        (" 2 ", 2.0),
        ("1_000", 'expected a number, found str. "1_000" is none'),
        ("3,5", "expected a number"),
        ("nan", "expected a finite number"),
        ("many", "expected a number"),
    ],
)
def test_a_number_is_read_where_one_is_wanted(tmp_path: Path, field: str, value: Any) -> None:
    path = table(tmp_path, f'text,label\na,"{field}"\n')
    if isinstance(value, float):
        assert read_rows(path, Columns(), number_in)[0].label == value
        return
    with pytest.raises(DataError, match=f'line 2 "label": {value}'):
        read_rows(path, Columns(), number_in)


@pytest.mark.parametrize(
    ("field", "items"),
    [
        ('["mit", "gpl, 2"]', ["mit", "gpl, 2"]),
        ("['mit', \"it's\"]", ["mit", "it's"]),
        ("[]", []),
        ("[3, 1]", [3, 1]),
        ("['mit' 'gpl']", None),
        ("[mit, gpl]", None),
        ("mit|gpl", None),
        ("['mit'] + ['gpl']", None),
        ("[__import__('os')]", None),
        ("[" * 100_000 + "]", None),
        ("[" * 50 + "]" * 50 + "]", None),
    ],
)
def test_a_list_is_read_as_json_and_python_write_it_and_as_nothing_else(field: str, items: list[Any] | None) -> None:
    assert Cell(field).items() == items


def test_a_field_that_is_no_list_says_how_one_is_written(tmp_path: Path) -> None:
    path = table(tmp_path, "text,label\na,mit|gpl\n")
    with pytest.raises(DataError, match=r'line 2 "label": expected a list of class names, found str\. .*\["mit"'):
        read_rows(path, Columns(), classes_in)
    path = table(tmp_path, "tokens,tags\nAnn came,B-PER O\n")
    with pytest.raises(DataError, match=r'line 2 "tokens": expected a list, found str\. .*\["Ann", "came"\]'):
        read_tagged(path, Columns())


def test_completions_and_alpaca_are_read_of_a_table(tmp_path: Path) -> None:
    path = table(tmp_path, "instruction,input,output\nAdd.,1 and 2,3\nSay hi.,,hi\n")
    found = read_dialogues(path, Columns(prompt="instruction", completion="output"))
    assert found[0].text.startswith("Add.\n\n1 and 2") and len(found) == 2


def test_a_table_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    path = table(tmp_path, "text,label\n" + f"{'x' * 1000},y\n" * 20_000)
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_records(path)) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 2_000_000 < path.stat().st_size
    finally:
        tracemalloc.stop()


def test_a_quote_that_is_never_closed_takes_no_memory_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = csv_rows.csv.field_size_limit(1000)
    monkeypatch.setattr(csv_rows, "MAX_ROW_CHARACTERS", 1000)
    try:
        with pytest.raises(DataError, match=r"lines 2 to \d+: a quote that is opened and not closed\. Write"):
            list(read_records(table(tmp_path, 'text,label\n"a,x\n' + "b,x\n" * 1000)))
    finally:
        csv_rows.csv.field_size_limit(before)
