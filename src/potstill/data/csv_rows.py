"""The rows of tables in text: CSV, whose fields are parted by commas or semicolons, and TSV, by tabs."""

import csv
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from potstill.data.cells import Cell
from potstill.data.opening import AGAIN, MAX_ROW_CHARACTERS, form_of, lines_of, too_long
from potstill.errors import DataError

MARKS = {".csv": ",;\t", ".tsv": "\t"}
"""What may part the fields of such a file: the first that its header has."""
NAMES = {",": "comma", ";": "semicolon", "\t": "tab"}
MOST_SHOWN = 12


def table_records(path: Path, refuse: Callable[[DataError], None], reads: Collection[str]) -> Iterator[tuple[str, Any]]:
    """The rows under the header, each with the line on which it begins: `line 3`.

    A field is a `Cell`, or None where nothing is written. `reads` are the columns that are read; a header without any
    of them is none.

    Raises:
        DataError: no header, or quotes that make it unknown where rows end; `refuse` is given rows with another number
            of fields.
    """
    # A setting of the whole process; a field is at most a row.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW_CHARACTERS))
    header: list[str] | None = None
    mark = _mark(path)
    for first, last, fields in _rows(path, mark, refuse):
        if header is None:
            header = _header(path, first, fields, reads)
            continue
        if len(fields) != len(header):
            refuse(_other_number(path, first, last, len(fields), header, mark))
            continue
        values = (Cell(field) if field else None for field in fields)
        yield f"line {first}", dict(zip(header, values, strict=True))


def _rows(path: Path, mark: str, refuse: Callable[[DataError], None]) -> Iterator[tuple[int, int, list[str]]]:
    """First and last line, and the fields, of each row that is not empty."""
    reader = csv.reader(_lines(path), delimiter=mark, strict=True)
    last, header = 0, True
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            first, last = last + 1, reader.line_num
            problem = _broken(path, first, last, str(error), mark)
            # Where quotes hold line ends, it is not known which rows are lost; without a header, what they mean.
            if last > first or header or "unexpected end" in str(error):
                raise problem from None
            refuse(problem)
            continue
        first, last = last + 1, reader.line_num
        if fields:
            header = False
            if mark == "\t" and last > first and any("\t" in field and "\n" in field for field in fields):
                raise _broken(path, first, last, "a tab and the end of a line within quotes", mark)
            yield first, last, fields


def _lines(path: Path) -> Iterator[str]:
    for number, line in enumerate(lines_of(path), start=1):
        if isinstance(line, int):
            raise too_long(path, f"line {number}", line, "bytes")
        yield f"{line}\n"


def _mark(path: Path) -> str:
    """What parts the fields, as the first line that is not empty shows."""
    possible = MARKS[form_of(path)]
    first = next((line for line in lines_of(path) if isinstance(line, int) or line.strip()), "")
    found = [mark for mark in possible if isinstance(first, str) and mark in first]
    return found[0] if found else possible[0]


def _header(path: Path, line: int, fields: list[str], reads: Collection[str]) -> list[str]:
    """The names of the columns. Those without one are called as pandas calls them, whose index has none.

    Raises:
        DataError: two columns of one name, or none that is read.
    """
    names = [field.strip() or f"Unnamed: {number}" for number, field in enumerate(fields)]
    for name in names:
        if names.count(name) > 1:
            raise DataError(
                f'{path}: line {line}: {names.count(name)} columns are named "{name}"; expected a name for each. '
                "Rename or drop all but one."
            )
    if reads and not set(reads) & set(names):
        shown = [name[: MOST_SHOWN * 5] for name in names[:MOST_SHOWN]]
        raise DataError(
            f"{path}: line {line}: no column is read of the header {shown}; a table begins with the names of its "
            "columns. Write them as its first line, or set data.columns to the names that it has."
        )
    return names


def _other_number(path: Path, first: int, last: int, found: int, header: list[str], mark: str) -> DataError:
    error = DataError(
        f"{path}: {_place(first, last)}: {found:,} fields, and {len(header):,} in the header. Put a text with a "
        f"{NAMES[mark]} in quotes, and write quotes within it twice."
    )
    if last > first:
        # Rows may be within its quotes.
        raise error
    return error


def _broken(path: Path, first: int, last: int, reason: str, mark: str) -> DataError:
    place = f"{path}: {_place(first, last)}"
    if "unexpected end" in reason or "field limit" in reason:
        return DataError(
            f"{place}: a quote that is opened and not closed{' (file truncated?)' if 'end' in reason else ''}. Write "
            f"a quote within quotes twice. {AGAIN if 'end' in reason else ''}".rstrip()
        )
    if "new-line" in reason:
        return DataError(
            f"{place}: a carriage return that ends no line. If all lines end so, write line feeds: tr '\\r' '\\n'. "
            "One within a text stands in quotes."
        )
    literal = (
        ' If quotes are plain characters in this file, write it as .jsonl; with pandas: read_csv("rows.tsv", '
        'sep="\\t", quoting=3).to_json("rows.jsonl", orient="records", lines=True).'
    )
    what = reason if "within" in reason else f"after the closing quote of a field stands no {NAMES[mark]}"
    return DataError(f"{place}: {what}. Write a quote within quotes twice.{literal if mark == chr(9) else ''}")


def _place(first: int, last: int) -> str:
    return f"line {first}" if first == last else f"lines {first} to {last}"
