"""Compressed files: the same bytes as unpacked, and one clear error for each that is damaged or no such file."""

import gzip
import json
import random
import tracemalloc
from pathlib import Path

import pytest

from potstill.data import files, opening
from potstill.data.columns import Columns
from potstill.data.files import read_records
from potstill.data.reading import Reading
from potstill.data.rows import read_rows
from potstill.errors import DataError
from tests.row_forms import as_list, as_table, zstd
from tests.unit.test_files import ROWS, written

DRAW = random.Random(0)
TEXTS = [{"text": f"{number} of many texts, {DRAW.random()}", "label": "x"} for number in range(500)]
LINES = "".join(json.dumps(row) + "\n" for row in TEXTS).encode()


def zipped(content: bytes) -> bytes:
    """The same bytes at any time: they are in the names of tests, which several processes must agree on."""
    return gzip.compress(content, mtime=0)


PACK = {".gz": zipped, ".zst": zstd}


@pytest.mark.parametrize("suffix", PACK)
def test_several_packed_one_after_the_other_are_one_file(tmp_path: Path, suffix: str) -> None:
    half = LINES.index(b"\n", len(LINES) // 2) + 1
    packed = PACK[suffix](LINES[:half]) + PACK[suffix](LINES[half:])
    found = read_rows(written(tmp_path, packed, f"rows.jsonl{suffix}"), Columns())
    assert [row.text for row in found] == [row["text"] for row in TEXTS]


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv"])
def test_a_packed_file_that_was_cut_is_one_error(tmp_path: Path, name: str, suffix: str) -> None:
    content = {"rows.jsonl": LINES, "rows.json": as_list(TEXTS), "rows.csv": as_table(TEXTS)}[name]
    packed = PACK[suffix](content)
    for size in (5, len(packed) // 2, len(packed) - 1):
        path = written(tmp_path, packed[:size], name + suffix)
        with pytest.raises(DataError, match=r"its end is missing \(file truncated\?\)") as caught:
            read_rows(path, Columns(), how=Reading(on_error="skip"))
        assert str(caught.value).startswith(f"{path}: after ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", PACK)
def test_no_flipped_byte_is_anything_else_than_the_rows_or_a_data_error(tmp_path: Path, suffix: str) -> None:
    packed = PACK[suffix](LINES)
    for place in range(0, len(packed), len(packed) // 60):
        damaged = bytearray(packed)
        damaged[place] ^= 0x15
        path = written(tmp_path, bytes(damaged), f"rows.jsonl{suffix}")
        try:
            read_rows(path, Columns())
        except DataError as error:
            assert str(error).startswith(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LINES, "not compressed with gzip. Name it rows.jsonl if it is not compressed"),
        (b"", "not compressed with gzip, but empty"),
        (zstd(LINES), "not compressed with gzip"),
        (zipped(LINES) + b"more", r"\(file damaged\?\)"),
        (zipped(b"text,label\na,x\n"), "line 1 on: no JSON. It looks like a table. Name it .csv."),
        (zipped(LINES.decode().encode("utf-16")), "not UTF-8"),
        (zipped(b'{"text": "caf\xe9"}'), r"line 1: not UTF-8 \(byte 13"),
        (zipped(zipped(LINES)), "no JSON. It is compressed with gzip"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 123456\n", "a git-lfs pointer"),
    ],
)
def test_what_is_not_as_its_name_says_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_rows(written(tmp_path, content, "rows.jsonl.gz"), Columns())


@pytest.mark.parametrize("suffix", PACK)
def test_a_file_that_grows_as_no_text_does_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(opening, "ALWAYS_UNPACKED_BYTES", 1_000_000)
    row = b'{"text": "' + b"a" * 100_000 + b'"}\n'
    path = written(tmp_path, PACK[suffix](row * 200), f"rows.jsonl{suffix}")
    times = 200 * len(row) / path.stat().st_size
    monkeypatch.setattr(opening, "MOST_TIMES", times / 2)
    with pytest.raises(DataError, match=r"times when it is unpacked, as text does not\. If it is meant so, unpack it"):
        read_rows(path, Columns())
    monkeypatch.setattr(opening, "MOST_TIMES", times * 2)
    assert len(read_rows(path, Columns())) == 200


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.conll"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_line_without_end_is_never_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, packed: bool
) -> None:
    monkeypatch.setattr(opening, "LONGEST_LINE_BYTES", 100_000)
    content = b'{"text": "a"}\n' + b"x " * 10_000_000 + b'\n{"text": "b"}\n'
    path = written(tmp_path, gzip.compress(content, 1) if packed else content, name + (".gz" if packed else ""))
    del content
    monkeypatch.setattr(files.formats, "require_text", lambda path, what: None)
    refused: list[DataError] = []
    tracemalloc.start()
    try:
        if name == "rows.jsonl":
            assert [record for _, record in read_records(path, refused.append)] == [{"text": "a"}, {"text": "b"}]
        else:
            with pytest.raises(DataError) as caught:
                list(read_records(path, refused.append))
            refused.append(caught.value)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()
    assert "line 2: 20,000,001 bytes; at most 10,000,000 a row" in str(refused[-1])


def test_what_a_file_is_by_its_name_does_not_depend_on_case(tmp_path: Path) -> None:
    packed = gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS).encode())
    assert [row for _, row in read_records(written(tmp_path, packed, "a.JSONL.GZ"))] == ROWS
