"""Files of other formats: what they are is told by their bytes, with the way to one that is read."""

import bz2
import gzip
import io
import json
import lzma
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from potstill.data.files import read_records
from potstill.data.reading import Reading
from potstill.data.rows import Columns, read_rows
from potstill.data.tagged import read_tagged
from potstill.errors import DataError
from tests.unit.test_files import ROWS, written

LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
CONLL = "-DOCSTART-\n\n# one\nAnn NNP B-NP B-PER\ncame VBD B-VP O\n\n"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 123456\n"
UTF16, UTF16LE = (f"iconv -f {name} -t UTF-8" for name in ("UTF-16", "UTF-16LE"))


def parquet() -> bytes:
    file = io.BytesIO()
    pa.parquet.write_table(pa.table({"text": ["a"]}), file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        *[(name, POINTER, r"a git-lfs pointer of 69 bytes, not the file of 0\.1 MB") for name in ("a.jsonl", "a.json")],
        ("a.parquet", POINTER, "git lfs pull"),
        ("a.jsonl", "<!DOCTYPE html><p>", "a web page that was saved"),
        (
            "a.jsonl",
            gzip.compress(LINES.encode(), mtime=0),
            r"compressed with gzip\. Name it \.gz behind .* rows\.jsonl\.gz",
        ),
        ("a.json", bz2.compress(LINES.encode()), "compressed with bzip2"),
        ("a.jsonl", lzma.compress(LINES.encode()), "compressed with xz"),
        ("a.jsonl", b"PK\x03\x04 more", "a zip archive"),
        ("a.jsonl", parquet(), r"a Parquet file\. Name it \.parquet"),
        ("rows", parquet(), r"unknown format ''.*a Parquet file\. Name it \.parquet"),
        ("a.parquet", LINES, r"not a readable Parquet file\. It begins as JSON: name it \.jsonl"),
        ("a.parquet", json.dumps(ROWS), r"It begins as JSON: name it \.json\."),
        ("a.jl", LINES, r"It begins as JSON: name it \.jsonl"),
        ("a.xlsx", b"PK\x03\x04 more", "read_excel"),
        ("a.jsonl", LINES.encode("utf-16"), f"by its byte-order mark.*{UTF16}"),
        ("a.json", json.dumps(ROWS).encode("utf-16"), f"by its byte-order mark.*{UTF16}"),
        ("a.jsonl", LINES.encode("utf-16-le"), f"by its NUL bytes.*{UTF16LE}"),
        ("a.jsonl", LINES.encode("utf-16-be"), "iconv -f UTF-16BE"),
        ("a.jsonl", LINES.encode("utf-32"), "iconv -f UTF-32 "),
        (
            "a.jsonl",
            LINES.encode() + '{"text": "café"}'.encode("cp1252"),
            r"line 4: not UTF-8 \(byte .*iconv -f CP1252",
        ),
        ("a.json", '[{"text": "café"}]'.encode("cp1252"), r"not UTF-8 \(byte 14.*iconv -f CP1252"),
        ("a.jsonl", '{"text": "é'.encode()[:-1], r"line 1: not UTF-8 .*file truncated\?"),
        ("a.jsonl", 'text,label\n"a, b",x\n', r"line 1 on: no JSON\. It looks like a table\. Name it \.csv\."),
        ("a.json", '"text","label"\n"a, b","x"\n', "It looks like a table"),
        ("a.jsonl", "text\tlabel\na\tx\n", r"It looks like a table\. Name it \.tsv\."),
        ("eng.train", CONLL.replace(" ", "\t"), r"unknown format '\.train'.*It looks like CoNLL\. Name it \.conll\."),
        ("a.csv", LINES, r"line 1 on: no table\. It begins as JSON: name it \.jsonl\."),
        ("a.tsv", json.dumps(ROWS, indent=1), r"no table\. It begins as JSON: name it \.json\."),
        ("a.conll", LINES, r"no CoNLL\. It begins as JSON: name it \.jsonl\."),
        ("a.csv", b"PK\x03\x04 more", "no table. It is a zip archive"),
        ("a.csv", "text,label\na,x\n".encode("utf-16"), f"by its byte-order mark.*{UTF16}"),
        ("a.csv", parquet(), r"no table\. It is a Parquet file\. Name it \.parquet"),
        ("a.conllu", CONLL, r"unknown format '\.conllu'.*Its last column holds no tags"),
        ("a.jsonl", CONLL.partition("\n\n")[2], "line 1 on: no JSON. It looks like CoNLL"),
        ("a.txt", "I like it, O\nand\n", r'Write one row a line: \{"text"'),
    ],
)
def test_a_file_is_named_for_what_its_bytes_are(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        list(read_records(written(tmp_path, content, name)))
    assert str(caught.value).startswith(str(tmp_path / name)) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.JSONL", "a.Json", "a.NDJSON"])
def test_the_case_of_a_suffix_does_not_matter(tmp_path: Path, name: str) -> None:
    assert [row for _, row in read_records(written(tmp_path, LINES, name))] == ROWS
    assert [row for _, row in read_records(written(tmp_path, parquet(), "a.PARQUET"))] == [{"text": "a"}]


@pytest.mark.parametrize(
    ("content", "read"),
    [
        ('{"text": "vitamin B-12"}\n{"text": "of B-13"}\n', ["vitamin B-12", "of B-13"]),
        ('\n \t\n{"text": "a,b;c"}\n', ["a,b;c"]),
        ("loading, please wait\n" + '{"text": "a, b"}\n', ["a, b"]),
        ('{"text": "PAR1"}\n', ["PAR1"]),
        ('{"text": "\u00e4\u4e00"}\n', ["\u00e4\u4e00"]),
        ('"a, b"\n{"text": "a"}\n', ["a"]),
    ],
)
def test_rows_of_json_are_never_taken_for_something_else(tmp_path: Path, content: str, read: list[str]) -> None:
    rows = read_rows(written(tmp_path, content, "a.jsonl"), Columns(), how=Reading(on_error="skip"))
    assert [row.text for row in rows] == read


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Hello there, friend\nhow\nare you\n", r"3 bad rows.*\n.*line 1: expecting value"),
        ('"a, b"\n"c, d"\n', r"2 bad rows.*\n.*line 1: expected an object with 'text', found str"),
    ],
)
def test_lines_that_are_no_table_are_bad_rows(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_rows(written(tmp_path, content, "a.jsonl"), Columns())


TABLE = {"text": ["a", "b"], "label": ["x", "y"]}


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {name: dict(zip("01", values, strict=True)) for name, values in TABLE.items()},
            "object of columns, as pandas",
        ),
        ({"0": {"text": "a", "label": "x"}, "1": {"text": "b", "label": "y"}}, 'orient="index"'),
        ({"columns": ["text"], "index": [0], "data": [["a"]]}, 'orient="split"'),
        ({"schema": {"fields": []}, "data": ROWS}, r"""Its "data" is a list.* jq -c '\.\["data"\]\[\]'"""),
        ({"version": "1", "data": [{"title": "x", "paragraphs": []}]}, r'Its "data" is a list of rows'),
        ({"train-1": [{"text": "a"}]}, r'Its "train-1" is a list of rows'),
    ],
)
def test_one_object_of_all_rows_is_named(tmp_path: Path, name: str, indent: int, record: Any, message: str) -> None:
    path = written(tmp_path, json.dumps(record, indent=indent), name)
    for on_error in ("raise", "skip"):
        with pytest.raises(DataError, match=message) as caught:
            read_rows(path, Columns(), how=Reading(on_error=on_error))
        assert "\n" not in str(caught.value)


def test_one_object_of_lists_is_told_from_one_row(tmp_path: Path) -> None:
    of_lists = "line 1: one object of columns that are lists of 2 values"
    path = tmp_path / "rows.json"
    with pytest.raises(DataError, match=of_lists):
        read_rows(written(tmp_path, json.dumps(TABLE)), Columns())
    with pytest.raises(DataError, match=of_lists):
        read_tagged(written(tmp_path, json.dumps({"tokens": [["a"], ["b"]], "tags": [["O"], ["O"]]})), Columns())
    assert len(read_tagged(written(tmp_path, json.dumps({"tokens": ["a", "b"], "tags": ["O", "O"]})), Columns())) == 1
    for record, message in (
        ({"words": ["a", "b"], "tags": ["O", "O"]}, 'line 1 has no "tokens"'),
        ({"tokens": ["a", "b"], "tags": ["O", 3]}, 'line 1 "tags"'),
    ):
        with pytest.raises(DataError, match=message):
            read_tagged(written(tmp_path, json.dumps(record)), Columns())
    with pytest.raises(DataError, match="line 1 has no"):
        read_rows(written(tmp_path, json.dumps({"messages": [{"role": "a"}, {"role": "b"}]})), Columns())
    path.write_text(f"{json.dumps(TABLE)}\n{json.dumps({'text': 'a'})}\n")
    with pytest.raises(DataError, match='line 1 "text": expected text, found list'):
        read_rows(path, Columns())
