"""Files of records: lists in .json files, what is said of other formats, and bad rows all at once."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.data import files
from potstill.data.columns import Columns
from potstill.data.files import read_records
from potstill.data.prepare import DataSettings, prepare
from potstill.data.reading import MOST_SHOWN, Reading
from potstill.data.rows import read_rows
from potstill.errors import DataError
from tests.unit.test_rows import lines

ROWS = [{"text": "a, ]b[", "label": "x"}, {"text": "c\u2028\U0001f600", "label": None}, {"text": "d", "n": 12.5}]


def written(tmp_path: Path, content: str | bytes, name: str = "rows.json") -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("indent", [None, 1, 4])
@pytest.mark.parametrize("ahead", [1, 2, 3, 7, 1 << 20])
@pytest.mark.parametrize("before", ["", "\ufeff", " \n\t"])
def test_a_list_in_a_json_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, indent: int | None, ahead: int, before: str
) -> None:
    # A number may go on in what is read next.
    values = [*ROWS, 12345, [], -0.25, 1e300, True]
    text = json.dumps(values, indent=indent, ensure_ascii=False).replace("1e+300", "1E+300")
    path = written(tmp_path, before + text + "\n ")
    # The bracket is looked for in what is read first, which is as much as a file of white space could have.
    monkeypatch.setattr(files, "AHEAD_BYTES", 1 << 20)
    assert files._begins_with_bracket(path)
    monkeypatch.setattr(files, "AHEAD_BYTES", ahead)
    assert list(files._json_list(path)) == [(f"row {n}", row) for n, row in enumerate(values)]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    values=st.lists(
        st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=3), st.lists, max_leaves=5)
    ),
    indent=st.sampled_from([None, 2]),
)
def test_any_list_comes_back(tmp_path_factory: pytest.TempPathFactory, values: list[Any], indent: int | None) -> None:
    path = written(tmp_path_factory.getbasetemp(), json.dumps(values, indent=indent), "list.json")
    assert [value for _, value in read_records(path)] == values


def test_lines_in_a_json_file_are_read_too(tmp_path: Path) -> None:
    assert [place for place, _ in read_records(lines(tmp_path / "rows.json", *ROWS))] == ["line 1", "line 2", "line 3"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "0 rows. Nothing written"),
        ('[{"text": "a"}, {"text": "b"', r"row 1 .*\(file truncated\?\)"),
        ('[{"text": "a"},\n\n {"text": }]', r"row 1 \(line 3 on\): expecting value"),
        ('[{"text": "a"} {"text": "b"}]', "row 0 .*no comma or ] after it"),
        ('[{"text": "a"}] {"text": "b"}', "row 0 .*something follows the list"),
        ('[{"text": "a"}', "row 0 .*no comma or ] after it"),
        ('[{"text": "a"},]', r"row 1 \(line 1 on\): expecting value, found \]\. Drop the comma"),
        ('[{"text": "a"}, {"body": "b"}]', 'row 1 has no "text"'),
        ('[{"text": "a"}, ' + "[" * 100_000, "row 1 .*nested too deeply"),
        ('[{"text": "a", "n": ' + "9" * 5000 + "}]", "row 0 .*too many digits"),
        (b'[{"text": "a"}, {"text": "\xff"}]', r"not UTF-8 \(byte 26"),
        (b'[{"text": "a\xc3', r"not UTF-8 \(byte 12: unexpected end"),
        ("[" + " " * 100 + json.dumps({"text": "a" * 10_000_001}) + "]", "row 0 .*at most 10,000,000 a row"),
    ],
)
def test_a_damaged_list_gives_one_error(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_rows(written(tmp_path, content), Columns())
    assert str(caught.value).startswith(str(tmp_path / "rows.json")) and "\n" not in str(caught.value)


REPEATED = ['{"text": "a", "label": "x", "label": "y"}', '{"text": "b", "meta": {"k": 1, "k": 1}}', '{"text": "c"}']


@pytest.mark.parametrize("ahead", [1, 5, 1 << 20])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_a_key_that_an_object_has_twice_is_an_error_of_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, ahead: int
) -> None:
    path = written(tmp_path, "[" + ",\n".join(REPEATED) + "]" if name == "rows.json" else "\n".join(REPEATED), name)
    monkeypatch.setattr(files, "AHEAD_BYTES", ahead)
    monkeypatch.setattr(files, "_begins_with_bracket", lambda path: True)
    with pytest.raises(DataError) as caught:
        read_rows(path, Columns())
    head, first, second = str(caught.value).splitlines()
    assert head.endswith("2 bad rows; the first 2:") and first.endswith('the key "label" twice; drop or rename one.')
    assert 'the key "k" twice' in second and (": line 2:" in second or ": row 1 (line 2 on):" in second)
    assert [row.text for row in read_rows(path, Columns(), how=Reading(on_error="skip"))] == ["c"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"text": "a"},', "extra data at column 14. Drop the comma after the row."),
        ('{"text": "a"}\r{"text": "b"}', "extra data at column 15. Write one row a line: jq -c ."),
        ("a", "expecting value at column 1."),
        ('{"text": "a"', "expecting ',' delimiter at column 13 (file truncated?)."),
    ],
)
def test_only_what_ends_too_early_is_truncated(tmp_path: Path, line: str, told: str) -> None:
    with pytest.raises(DataError) as caught:
        list(read_records(written(tmp_path, f'{{"text": "before"}}\n{line}\n', "rows.jsonl")))
    assert str(caught.value) == f"{tmp_path / 'rows.jsonl'}: line 2: {told}"


def test_a_list_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    path = written(tmp_path, json.dumps([{"text": "x" * 1000} for _ in range(20_000)]))
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_records(path)) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 8_000_000 < path.stat().st_size
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", json.dumps(ROWS), "line 1 is a list of 3 rows, not one row. Name the file .json"),
        ("rows.jsonl", json.dumps(ROWS, indent=1), "one list over several lines.*Name the file .json"),
        ("rows.jsonl", json.dumps(ROWS[0], indent=1), r"an object over several lines.*Write it on one"),
        ("rows.json", json.dumps({"version": 1, "data": ROWS}, indent=1), r'Its "data" is a list.*\.\["data"\]\[\]'),
        ("rows.gz", b"\x1f\x8b", r"unknown format ''.*Name it after what is in it, such as rows\.jsonl\.gz"),
        ("rows.parquet.gz", b"\x1f\x8b", "only files of text are read compressed. Unpack it first"),
        ("rows", "x", "unknown format ''; expected .jsonl or .parquet"),
    ],
)
def test_other_formats_are_named_with_the_way_to_one_that_is_read(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        list(read_records(written(tmp_path, content, name)))
    assert "\n" not in str(caught.value)


def test_a_folder_and_the_name_of_a_data_set_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a folder without files of rows; expected \.jsonl"):
        read_rows(tmp_path, Columns())
    with pytest.raises(DataError, match=r"imdb: no such file.*Rows of the hub are named hf:organisation/name"):
        read_rows(tmp_path / "imdb", Columns())


BAD = [
    '{"text": 3}',
    "{text}",
    '{"body": "x"}',
    '{"text": "a", "label": 0.5}',
    '["a"]',
    '{"text": "cut',
    '{"text": null}',
]


def broken(tmp_path: Path, *, good: int, bad: int, name: str = "train.jsonl") -> Path:
    """Good rows, each followed by a bad one as long as there are some."""
    rows = []
    for number in range(max(good, bad)):
        if number < good:
            rows.append(json.dumps({"text": f"{name} {number}", "label": "xy"[number % 2]}))
        if number < bad:
            rows.append(BAD[number % len(BAD)])
    path = tmp_path / name
    path.write_text("\n".join(rows) + "\n")
    return path


def test_bad_rows_come_all_at_once_the_first_ten_with_their_lines(tmp_path: Path) -> None:
    path = broken(tmp_path, good=14, bad=14)
    with pytest.raises(DataError) as caught:
        read_rows(path, Columns())
    head, *rest = str(caught.value).splitlines()
    assert head == f"{path}: 14 bad rows; the first 10:" and len(rest) == MOST_SHOWN
    assert [line.split(": ")[1].split()[:2] for line in rest] == [["line", str(2 * n)] for n in range(1, 11)]
    assert all(line.startswith(f"{path}: line ") for line in rest)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(rows=st.lists(st.sampled_from(["good", *BAD]), min_size=1, max_size=30))
def test_every_bad_row_is_counted_and_every_good_one_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "mixed.jsonl"
    good = [n for n, row in enumerate(rows) if row == "good"]
    path.write_text("\n".join(f'{{"text": "t{n}"}}' if row == "good" else row for n, row in enumerate(rows)))
    how = Reading(on_error="skip")
    if not good:
        with pytest.raises(DataError, match=rf"0 rows \({len(rows)} skipped; .*line 1"):
            read_rows(path, Columns(), how=how)
        return
    assert [row.text for row in read_rows(path, Columns(), how=how)] == [f"t{n}" for n in good]
    assert how.files[path].bad == len(rows) - len(good)
    if len(good) < len(rows):
        with pytest.raises(DataError) as caught:
            read_rows(path, Columns())
        shown = min(MOST_SHOWN, len(rows) - len(good))
        assert len(str(caught.value).splitlines()) == shown + (len(rows) - len(good) > 1)


def test_skipped_rows_are_counted_in_every_split(tmp_path: Path) -> None:
    for name, bad in (("train", 3), ("validation", 1), ("test", 0)):
        broken(tmp_path, good=6, bad=bad, name=f"{name}.jsonl")
    data = DataSettings(train="train.jsonl", validation="validation.jsonl", test="test.jsonl", on_error="skip")
    splits = prepare(data, tmp_path, read_rows)
    counts = {name: (split.read, len(split.rows), split.notes and split.notes.bad) for name, split in splits.items()}
    assert counts == {"train": (9, 6, 3), "validation": (7, 6, 1), "test": (6, 6, 0)}
    with pytest.raises(DataError) as caught:
        prepare(data.model_copy(update={"on_error": "raise"}), tmp_path, read_rows)
    assert "train.jsonl: 3 bad rows; the first 3:" in str(caught.value), "and of all files"
    assert "validation.jsonl: line 2" in str(caught.value)
    shares = DataSettings(train="train.jsonl", validation=0.3, test=0.3, on_error="skip", near_copies=None)
    for name, split in prepare(shares, tmp_path, read_rows).items():
        assert split.read == len(split.rows) + (3 if name == "train" else 0)


def test_what_is_wrong_with_a_whole_file_is_not_skipped(tmp_path: Path) -> None:
    path = written(tmp_path, b'{"text": "a"}\n{"text": "\xff"}\n', "rows.jsonl")
    with pytest.raises(DataError, match="not UTF-8"):
        read_rows(path, Columns(), how=Reading(on_error="skip"))
    lines(path, {"id": "a", "text": "1"}, {"id": "a", "text": "2"})
    with pytest.raises(DataError, match="Duplicate id"):
        read_rows(path, Columns(), how=Reading(on_error="skip"))
    lines(path, {"text": "1", "weight": 2})
    with pytest.raises(DataError, match="weight"):
        read_rows(path, Columns(), how=Reading(on_error="skip"))


def test_only_the_beginning_of_a_file_is_looked_at_for_a_value_over_several_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(files, "_refuse_several_lines", lambda path, line: seen.append(line))
    path = written(tmp_path, "\n".join(["", '{"a": 1', '{"b": 2', '{"c": 3']), "rows.jsonl")
    refused: list[DataError] = []
    assert list(read_records(path, refused.append)) == []
    assert (seen, len(refused)) == (['{"a": 1'], 3)
    monkeypatch.setattr(files, "MAX_ROW_CHARACTERS", 3)
    assert list(read_records(path, refused.append)) == []
    assert len(seen) == 1
