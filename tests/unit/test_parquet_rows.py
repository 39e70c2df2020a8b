"""Parquet files: what Python has no value for is read all the same, and what is damaged is named."""

from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from potstill.data import parquet_rows
from potstill.data.files import read_records
from potstill.data.reading import Reading
from potstill.data.rows import Columns, read_rows
from potstill.errors import DataError

NOT_UTF8 = pa.Array.from_buffers(pa.string(), 3, pa.array([b"ok", b"a\xff", b"\xc3"]).buffers())


def written(tmp_path: Path, columns: dict[str, Any], **options: Any) -> Path:
    path = tmp_path / "rows.parquet"
    pa.parquet.write_table(pa.table(columns), path, **options)
    return path


def times(kind: pa.DataType, value: int) -> pa.Array:
    return pa.array([value, None, value], pa.int32() if kind.bit_width == 32 else pa.int64()).cast(kind)


STRANGE = {
    "nanoseconds": times(pa.timestamp("ns"), 1_700_000_000_123_456_789),
    "year": times(pa.timestamp("ms"), 2**48),
    "zone": times(pa.timestamp("us", tz="Mars/Base"), 1),
    "duration": times(pa.duration("ns"), 1_234_567_891),
    "time": times(pa.time64("ns"), 123_456_789),
    "date": times(pa.date32(), 2**30),
}


@pytest.mark.parametrize("name", STRANGE)
@pytest.mark.parametrize("inside", ["column", "struct", "list", "large list", "fixed list", "map"])
def test_times_that_python_does_not_have_are_read_as_texts(tmp_path: Path, name: str, inside: str) -> None:
    values, ends = STRANGE[name], [0, 1, 2, 3]
    column = {
        "column": values,
        "struct": pa.StructArray.from_arrays([values], ["t"]),
        "list": pa.ListArray.from_arrays(ends, pa.StructArray.from_arrays([values], ["t"])),
        "large list": pa.LargeListArray.from_arrays(ends, values),
        "fixed list": pa.FixedSizeListArray.from_arrays(values, 1),
        "map": pa.MapArray.from_arrays(ends, pa.array(["k"] * 3), values),
    }[inside]
    path = written(tmp_path, {"text": ["a", "b", "c"], "t": column})
    assert [row.text for row in read_rows(path, Columns())] == ["a", "b", "c"]
    found = [record["t"] for _, record in read_records(path)]
    of = {
        "struct": lambda value: value["t"],
        "list": lambda value: value[0]["t"],
        "large list": lambda value: value[0],
        "fixed list": lambda value: value[0],
        "map": lambda value: value[0][1],
    }
    first, empty, _ = [of[inside](value) for value in found] if inside in of else found
    assert isinstance(first, str) and empty is None


def test_times_that_python_has_are_as_they_are(tmp_path: Path) -> None:
    values = {"day": [date(2024, 1, 2)], "at": [datetime(2024, 1, 2, 3)]}
    path = written(tmp_path, {**values, "n": times(pa.timestamp("ns"), 1_700_000_000_123_456_789)[:1]})
    ((_, record),) = read_records(path)
    assert record == {"day": date(2024, 1, 2), "at": datetime(2024, 1, 2, 3), "n": "2023-11-14 22:13:20.123456789"}


@pytest.mark.parametrize("encoded", [False, True])
def test_bytes_that_are_not_utf8_matter_where_they_are_read(tmp_path: Path, encoded: bool) -> None:
    texts = NOT_UTF8.dictionary_encode() if encoded else NOT_UTF8
    whole = {"text": ["1", "2", "3"], "label": ["x", "y", "x"]}
    inside = pa.StructArray.from_arrays([NOT_UTF8, STRANGE["nanoseconds"]], ["a", "b"])
    path = written(tmp_path, {**whole, "u": texts, "s": inside})
    assert [row.text for row in read_rows(path, Columns())] == ["1", "2", "3"]
    found = [record["s"]["a"] for _, record in read_records(path)]
    assert found == ["ok", b"a\xff", b"\xc3"]
    path = written(tmp_path, {**whole, "text": texts})
    with pytest.raises(
        DataError, match=r'2 bad rows.*\n.*row 1 "text": expected text, found bytes\. They are not UTF-8'
    ):
        read_rows(path, Columns())
    assert [row.text for row in read_rows(path, Columns(), how=Reading(on_error="skip"))] == ["ok"]


@pytest.mark.parametrize("column", ["text", "label"])
def test_binary_columns_are_neither_texts_nor_classes(tmp_path: Path, column: str) -> None:
    path = written(tmp_path, {"text": ["1", "2"], "label": ["x", "y"]} | {column: [b"a", b"b"]})
    with pytest.raises(DataError, match=rf'row 0 "{column}": .* found bytes\. The column is of type binary; write'):
        read_rows(path, Columns())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([("text", "a"), ("label", "x"), ("label", "y")], '2 columns are named "label"'),
        ([("text", "a"), ("s", {"q": 1}), ("list", [{"q": 1}])], None),
    ],
)
def test_two_columns_of_one_name_are_refused(tmp_path: Path, fields: list[tuple[str, Any]], message: str) -> None:
    path = tmp_path / "rows.parquet"
    arrays = [pa.array([value]) for _, value in fields]
    pa.parquet.write_table(pa.table(arrays, names=[name for name, _ in fields]), path)
    if message is None:
        assert len(read_rows(path, Columns())) == 1
        return
    with pytest.raises(DataError, match=message):
        read_rows(path, Columns())


def test_two_fields_of_one_name_in_a_column_are_refused(tmp_path: Path) -> None:
    two = pa.StructArray.from_arrays([pa.array(["a"]), pa.array(["b"])], ["q", "q"])
    path = written(tmp_path, {"text": ["a"], "s": pa.ListArray.from_arrays([0, 1], two)})
    with pytest.raises(DataError, match=r'rows\.parquet: 2 fields of "s" are named "q"'):
        read_rows(path, Columns())


def test_damaged_rows_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, {"text": [f"{number} of many" for number in range(40)]}, row_group_size=20)
    whole = path.read_bytes()
    start = pa.parquet.ParquetFile(path).metadata.row_group(1).column(0).dictionary_page_offset
    path.write_bytes(whole[: start + 20] + bytes(60) + whole[start + 80 :])
    monkeypatch.setattr(parquet_rows, "PARQUET_ROWS", 10)
    places = []
    with pytest.raises(DataError, match=r"rows\.parquet: rows 20 to 29 cannot be read \(.*The file is damaged"):
        places.extend(place for place, _ in read_records(path))
    path.write_bytes(whole[:-20])
    with pytest.raises(DataError, match=r"its end is missing \(file truncated\?\)"):
        read_rows(path, Columns())


def test_no_flipped_byte_is_anything_else_than_rows_or_a_data_error(tmp_path: Path) -> None:
    stamps = pa.array(range(30), pa.int64()).cast(pa.timestamp("ns", tz="UTC"))
    path = written(tmp_path, {"text": [f"{n} text" for n in range(30)], "label": ["x", "y"] * 15, "at": stamps})
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 0x2A
        path.write_bytes(damaged)
        try:
            assert len(read_rows(path, Columns())) <= 30
        except DataError as error:
            assert str(error).startswith(str(path))
