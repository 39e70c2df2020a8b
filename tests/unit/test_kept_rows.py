"""Answers to single rows come back as they were kept, or not at all."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from potstill.errors import RunDirError
from potstill.evaluation.kept_rows import KEPT_CHARACTERS, KeptRows, ModelRows, read_rows, write_rows


def kept(**changes: Any) -> KeptRows:
    # A teacher may be called as a column is.
    models = {
        "student": ModelRows(["a <b>", "\x00\u202eb"], np.array([True, False]), {"confidence": np.array([0.1, 1 / 3])}),
        "id": ModelRows(numbers={"value": np.array([1e300, np.nan]), "true": np.array([0.0, -1.5])}),
    }
    rows = KeptRows("single_label", ["r-1", "r-2"], ["0" * 64, "1" * 64], models, ["text", "🦊\n"], ["a", "b"])
    return replace(rows, **changes)


@pytest.mark.parametrize("changes", [{}, {"texts": None, "truth": None}, {"kind": "regression"}])
def test_what_is_written_is_read(changes: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "answers.parquet"
    rows = kept(**changes)
    write_rows(path, rows)
    found = read_rows(path)
    for name in ("kind", "ids", "digests", "texts", "truth"):
        assert getattr(found, name) == getattr(rows, name), name
    assert list(found.models) == ["student", "id"]
    for name, model in rows.models.items():
        assert found.models[name].said == model.said
        np.testing.assert_array_equal(found.models[name].right, model.right)
        assert list(found.models[name].numbers) == list(model.numbers)
        for number, values in model.numbers.items():
            np.testing.assert_array_equal(found.models[name].numbers[number], values)
    assert [each.name for each in path.parent.iterdir()] == ["answers.parquet"]
    # It holds texts of the data.
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_is_only_shown_is_cut(tmp_path: Path) -> None:
    long = ModelRows(["a" * 2000, "b"], np.array([True, True]))
    write_rows(tmp_path / "answers.parquet", kept(models={"student": long}))
    said = read_rows(tmp_path / "answers.parquet").models["student"].said
    assert said == ["a" * KEPT_CHARACTERS, "b"]


def test_a_file_that_cannot_be_written_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "answers.parquet"
    write_rows(path, kept())
    before = path.read_bytes()

    def fail(table: pa.Table, where: Path, **_: Any) -> None:
        where.write_bytes(b"half")
        raise OSError("the disk is full")

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(OSError, match="full"):
        write_rows(path, kept(texts=None))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("about", [None, b"{}", b"no json", b"[]", b'{"form": 99, "answers": "tags"}', b'{"form": 1}'])
def test_a_file_of_another_form_is_refused(about: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "answers.parquet"
    write_rows(path, kept())
    with pq.ParquetFile(path) as file:
        table = file.read()
    pq.write_table(table.replace_schema_metadata(about and {b"potstill": about}), path)
    with pytest.raises(RunDirError, match="not in the form in which this version keeps answers"):
        read_rows(path)


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "answers.parquet").write_bytes(b"\x80\x04no table")
    with pytest.raises(RunDirError, match="not in the form"):
        read_rows(tmp_path / "answers.parquet")


def test_rows_are_put_in_another_order_with_all_that_is_of_them() -> None:
    turned = kept().of(np.array([1, 0]))
    assert (turned.ids, turned.digests) == (["r-2", "r-1"], ["1" * 64, "0" * 64])
    assert (turned.texts, turned.truth) == (["🦊\n", "text"], ["b", "a"])
    student = turned.models["student"]
    assert student.said == ["\x00\u202eb", "a <b>"] and student.right is not None
    assert student.right.tolist() == [False, True] and student.numbers["confidence"].tolist() == [1 / 3, 0.1]
    assert kept(texts=None, truth=None).of(np.array([1, 0])).texts is None
