"""Fields that test rows are told apart by: kept beside the rows, read and not a part of what the rows are."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from potstill.data.columns import Columns
from potstill.data.kept_fields import LONGEST_VALUE
from potstill.data.on_disk import OnDisk
from potstill.data.prepare import DataSettings, Read, prepare
from potstill.data.reading import Reading
from potstill.data.rows import read_rows, rows_fingerprint
from potstill.errors import DataError
from tests.unit.test_fields import FORMS
from tests.unit.test_rows import lines

VALUES: list[tuple[Any, str | None]] = [
    ("web", "web"),
    (" web ", " web "),
    (None, None),
    ("", None),
    ([], None),
    (3, "3"),
    (3.0, "3"),
    (0.5, "0.5"),
    (True, "true"),
    ({"b": 1, "a": ["ä"]}, '{"a": ["ä"], "b": 1}'),
    ("x" * 300, "x" * LONGEST_VALUE),
]


def read(read_form: Read, path: Path, *keep: str, **columns: str) -> tuple[OnDisk[Any], Reading]:
    how = Reading(keep=keep)
    return read_form(path, Columns(**columns), how=how), how


@pytest.mark.parametrize(("read_form", "row"), FORMS)
def test_values_of_any_form_of_row_are_kept_as_texts(tmp_path: Path, read_form: Read, row: dict[str, Any]) -> None:
    records = [row | {"id": f"r{number}", "kind": value, "url": "u"} for number, (value, _) in enumerate(VALUES)]
    records.append(row | {"id": "without"})
    rows, how = read(read_form, lines(tmp_path / "rows.jsonl", *records), "kind", "id")
    assert rows.values_of("kind") == [*(text for _, text in VALUES), None]
    assert rows.values_of("id") == [row.id for row in rows]
    odd = rows.where(np.arange(len(rows)) % 2 == 1)
    assert odd.values_of("kind") == rows.values_of("kind")[1::2] and odd[2:].values_of("id") == [
        "r5",
        "r7",
        "r9",
        "without",
    ]
    assert how.files[tmp_path / "rows.jsonl"].unread == {"url": len(VALUES)}
    plain, _ = read(read_form, tmp_path / "rows.jsonl")
    assert rows_fingerprint(plain) == rows_fingerprint(rows), "a run goes on, whatever its test rows are told apart by"


def test_a_field_that_is_kept_is_read_whatever_it_means(tmp_path: Path) -> None:
    """Of others of this name the text would lack something."""
    path = lines(
        tmp_path / "rows.jsonl", *({"text": f"t{n}", "label": "ab"[n % 2], "context": f"c{n}"} for n in range(4))
    )
    with pytest.raises(DataError, match="context"):
        read(read_rows, path)
    rows, _ = read(read_rows, path, "context", "label")
    assert rows.values_of("context") == ["c0", "c1", "c2", "c3"] and rows.values_of("label") == list("abab")


def test_tables_and_parquet_have_fields_too(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label,kind\na,x,007\nb,y,\n")
    rows, _ = read(read_rows, tmp_path / "rows.csv", "kind")
    assert rows.values_of("kind") == ["007", None]
    table = pa.table({"text": ["a", "b"], "label": ["x", "y"], "kind": [1, None]})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    rows, _ = read(read_rows, tmp_path / "rows.parquet", "kind")
    assert rows.values_of("kind") == ["1", None]


def test_bad_rows_that_are_skipped_shift_no_value(tmp_path: Path) -> None:
    path = lines(tmp_path / "rows.jsonl", {"text": "a", "kind": 1}, {"text": 5, "kind": 2}, {"text": "c", "kind": 3})
    how = Reading(on_error="skip", keep=("kind",))
    assert read_rows(path, Columns(), how=how).values_of("kind") == ["1", "3"]


def test_every_split_keeps_its_values_through_what_is_dropped(tmp_path: Path) -> None:
    records = [
        {"text": f"words of row {n % 50} alone{n % 50}", "label": "ab"[n % 2], "kind": n % 50} for n in range(70)
    ]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, records)))
    settings = DataSettings(train="train.jsonl", validation=0.2, test=0.3, near_copies=None)
    splits = prepare(settings, tmp_path, read_rows, keep=("kind",))
    assert splits["train"].duplicates_dropped + splits["test"].duplicates_dropped > 0
    for split in splits.values():
        assert isinstance(split.rows, OnDisk) and len(split.rows) > 3
        assert split.rows.values_of("kind") == [row.text.split()[3] for row in split.rows]
