"""Rows of words and tags: what is read, and one clear error for what cannot be."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from potstill.data.columns import Columns
from potstill.data.tagged import TaggedRow, read_tagged
from potstill.errors import DataError


def written(tmp_path: Path, *rows: Any) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_are_read_as_they_are(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {"id": "a", "tokens": ["Under", "MIT"], "tags": ["O", "B-x"], "domain": "d"},
        {"tokens": ["Nobody", "tagged", "\u2028it"], "tags": None},
        {"id": 3, "words": ["w"], "tokens": ["w"]},
    )
    first, second, third = read_tagged(path, Columns())
    assert first == TaggedRow("a", ("Under", "MIT"), ("O", "B-x"), "d")
    assert first.labelled and first.classes == ("O", "B-x") and first.text == "Under MIT"
    assert not second.labelled and second.classes == () and len(second.id) == 16
    assert third.id == "3"
    assert TaggedRow.of(json.loads(json.dumps(first.content))) == first


def test_parquet_and_other_names_of_columns(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pa.parquet.write_table(pa.table({"words": [["a", "b"]], "ner": [["O", "B-x"]]}), path)
    [row] = read_tagged(path, Columns(tokens="words", tags="ner"))
    assert (row.tokens, row.tags) == (("a", "b"), ("O", "B-x"))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"words": ["a"]}, r'line 1 has no "tokens"; found \[\'words\'\]. Set data.columns.tokens'),
        (
            {"text": None, "entities": []},
            r'has no "tokens"; .* Write words and tags as lists: \{"tokens": .* or a text',
        ),
        ({"text": "a", "entities": [{"start": 0}]}, r'"entities\[0\]": no end or end_offset; found'),
        ({"tokens": ["a"], "tags": "O"}, r'"tags": expected a list, found str. Write a list with a tag for each word'),
        ({"tokens": ["a"], "tags": [None]}, '"tags": expected text, found NoneType at word 0. Write O, or null'),
        ({"tokens": ["a"], "tags": [0.0]}, "found the number 0.0. Write tags by their names"),
        (["a"], 'line 1 has no "tokens"; found list'),
        ({"tokens": "a b"}, 'line 1 "tokens": expected a list, found str. Write a list of words'),
        ({"tokens": ["a", ""]}, "word 1 is ''; a word is not empty"),
        ({"tokens": ["New York"]}, "word 0 is 'New York'; a word is not empty and holds no white space"),
        ({"tokens": ["a", 3]}, "expected text, found the number 3"),
        ({"tokens": ["a", None]}, 'line 1 "tokens": expected text, found NoneType'),
        ({"tokens": ["a", "b"], "tags": ["O"]}, "line 1: 2 words and 1 tags; each word has one"),
        ({"tokens": ["a"], "tags": [0]}, "found the number 0. Write tags by their names"),
        ({"tokens": ["\ud800"]}, r"U\+D800 is not valid Unicode"),
    ],
)
def test_bad_rows(tmp_path: Path, row: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        list(read_tagged(written(tmp_path, row), Columns()))
