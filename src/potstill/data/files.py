"""Files of rows as records: which form a file has, and the reading of JSON, an object a line or one list of them."""

import codecs
import json
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from potstill.data import formats
from potstill.data.opening import MAX_ROW_CHARACTERS, form_of, is_packed, lines_of, not_utf8, opened, too_long
from potstill.errors import DataError

AHEAD_BYTES = 1 << 20
"""What is read at a time of a file that is one list."""

WHITE_SPACE = re.compile(r"[ \t\r\n]*")
"""As JSON has it."""

Refuse = Callable[[DataError], None]
"""What is done with a row that cannot be read; the rows after it are read if this returns."""


def at_once(error: DataError) -> None:
    """Raises DataError: the error itself."""
    raise error


def read_records(
    path: Path,
    refuse: Refuse = at_once,
    *,
    reads: Collection[str] = (),
    tagged: tuple[str, str] | None = ("tokens", "tags"),
) -> Iterator[tuple[str, Any]]:
    """What is in a file, each with its place: `line 3` or `row 2`.

    `reads` are the columns that are read, which tell the header of a table; `tagged` is what the words of a CoNLL file
    and their tags are called in its records, None where no such rows are read.

    Raises:
        DataError: a file that is missing, of another format or damaged; `refuse` is given rows that cannot be read.
    """
    if not path.is_file():
        raise formats.not_a_file(path)
    formats.require_no_stand_in(path)
    form = form_of(path)
    # Here, so that what reads JSON alone does not wait for Arrow.
    if form in (".parquet", ".arrow") and not is_packed(path):
        if form == ".parquet":
            from potstill.data.parquet_rows import parquet_records

            return parquet_records(path, refuse)
        from potstill.data.arrow_rows import arrow_records

        return arrow_records(path, refuse)
    if form in (".csv", ".tsv"):
        from potstill.data.csv_rows import table_records

        formats.require_text(path, "table")
        return table_records(path, refuse, reads)
    if form in formats.TAGGED or (form == ".txt" and formats.looks_tagged(path)):
        from potstill.data.conll_rows import tagged_records

        if tagged is None:
            raise DataError(f"{path}: words with their tags, which token_classification reads. Set task.kind to that.")
        formats.require_text(path, "CoNLL")
        return tagged_records(path, refuse, tagged)
    if form not in {".jsonl", ".json", ".ndjson"}:
        raise formats.unknown_format(path)
    formats.require_json(path)
    return _json_list(path, refuse) if form == ".json" and _begins_with_bracket(path) else _json_lines(path, refuse)


class RepeatedKey(ValueError):
    """A key that one object of JSON has twice, so that one of its values would be lost."""


def json_value(text: str) -> Any:
    """The value of a text of JSON.

    Raises:
        ValueError: it is none, has too long a number, or is a `RepeatedKey`.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise RepeatedKey(next(key for key in keys if keys.count(key) > 1))
    return values


def _json_lines(path: Path, refuse: Refuse) -> Iterator[tuple[str, Any]]:
    before = 0
    for number, line in enumerate(lines_of(path), start=1):
        place = f"line {number}"
        if isinstance(line, int):
            refuse(too_long(path, place, line, "bytes"))
            continue
        if not line.strip():
            continue
        first, before = before == 0, number
        if len(line) > MAX_ROW_CHARACTERS:
            refuse(too_long(path, place, len(line)))
            continue
        try:
            record = json_value(line)
        except json.JSONDecodeError as error:
            if first:
                _refuse_several_lines(path, line)
            where = f"{error.pos + 1}{_cut(error, line)}.{_extra(error, line)}"
            refuse(DataError(f"{path}: {place}: {_reason(error)} at column {where}"))
            continue
        except (RecursionError, ValueError) as error:
            refuse(DataError(f"{path}: {place}: {_reason(error)}."))
            continue
        if first and isinstance(record, list) and record and isinstance(record[0], dict):
            raise DataError(f"{path}: {place} is a list of {len(record):,} rows, not one row. {_AS_LIST}")
        yield place, record


_AS_LIST = "Name the file .json to have its one list read, or write one row a line: jq -c '.[]'."


def _refuse_several_lines(path: Path, line: str) -> None:
    """Raises DataError: the file begins with a value that goes on over the end of its first line."""
    if line.strip()[:1] not in ("{", "["):
        return
    with opened(path) as file:
        text = file.read(MAX_ROW_CHARACTERS).removeprefix(codecs.BOM_UTF8).decode(errors="replace").lstrip()
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except (RecursionError, ValueError):
        return
    if "\n" not in text[:end]:
        return
    if isinstance(value, list):
        raise DataError(f"{path}: one list over several lines; expected one row a line. {_AS_LIST}")
    if inside := formats.rows_in_one(value, lists_in_rows=True):
        raise DataError(f"{path}: {inside}")
    raise DataError(
        f"{path}: an object over several lines; expected one row a line, or .json with one list of rows. "
        "Write it on one: jq -c ."
    )


def _reason(error: Exception) -> str:
    """What is wrong with JSON, in a few words."""
    if isinstance(error, json.JSONDecodeError):
        return error.msg[:1].lower() + error.msg[1:]
    if isinstance(error, RepeatedKey):
        return f"an object has the key {json.dumps(str(error), ensure_ascii=False)} twice; drop or rename one"
    return "nested too deeply" if isinstance(error, RecursionError) else "a number has too many digits"


def _cut(error: Exception, text: str) -> str:
    """A guess where the text ends before its JSON does."""
    if not isinstance(error, json.JSONDecodeError) or error.msg == "Extra data" or (text and error.pos == 0):
        return ""
    return " (file truncated?)" if "Unterminated" in error.msg or error.pos >= len(text) - 1 else ""


def _extra(error: json.JSONDecodeError, text: str) -> str:
    """What to do about what follows a row on its line, where it is known what that is."""
    rest = text[error.pos :].strip()
    if error.msg != "Extra data" or rest[:1] not in (",", "{"):
        return ""
    return " Drop the comma after the row." if rest == "," else " Write one row a line: jq -c ."


def _begins_with_bracket(path: Path) -> bool:
    with opened(path) as file:
        return file.read(AHEAD_BYTES).removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"["


def _json_list(path: Path, refuse: Refuse = at_once) -> Iterator[tuple[str, Any]]:
    """The items of a file that is one list; memory holds what is read ahead of them."""
    text = _Ahead(path)
    text.skip("[")
    number = 0
    if text.next() == "]":
        return
    while True:
        value, error = text.value(f"row {number}")
        if error:
            refuse(error)
        else:
            yield f"row {number}", value
        if text.next() == "]":
            break
        if text.next() != ",":
            raise text.broken(f"row {number}", "no comma or ] after it")
        text.skip(",")
        number += 1
        if text.next() == "]":
            raise text.broken(f"row {number}", "expecting value, found ]. Drop the comma before it")
    text.skip("]")
    if text.next():
        raise text.broken(f"row {number}", "something follows the list")


class _Ahead:
    """A file as text of which a part is read ahead."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pieces = self._read()
        self._text, self._place = "", 0
        self._line = 1

    def next(self) -> str:
        """The next character that is no white space; nothing at the end of the file."""
        while True:
            space = WHITE_SPACE.match(self._text, self._place)
            assert space is not None
            self._go_to(space.end())
            if self._place < len(self._text):
                return self._text[self._place]
            if not self._more():
                return ""

    def skip(self, character: str) -> None:
        assert self.next() == character
        self._go_to(self._place + 1)

    def value(self, where: str) -> tuple[Any, DataError | None]:
        """The JSON value that comes next, with an error if that is not all of it; raises DataError."""
        decoder, repeated = json.JSONDecoder(object_pairs_hook=_object), None
        self.next()
        while True:
            try:
                value, end = decoder.raw_decode(self._text, self._place)
            except RepeatedKey as error:
                # Read without looking at keys, to come to the next row.
                decoder, repeated = json.JSONDecoder(), self.broken(where, _reason(error))
                continue
            except (RecursionError, ValueError) as error:
                # What is not whole yet looks broken too.
                partial = isinstance(error, json.JSONDecodeError)
                if not partial or len(self._text) - self._place > MAX_ROW_CHARACTERS or not self._more():
                    raise self.broken(where, f"{_reason(error)}{_cut(error, self._text)}") from None
                continue
            length = end - self._place
            # A number may go on in what follows: 12 of 123, 1 of 1e+5. No more than e+ is read of it and not counted.
            if len(self._text) - end > len("e+") or not self._more():
                if length > MAX_ROW_CHARACTERS:
                    raise self.broken(where, f"{length:,} characters; at most {MAX_ROW_CHARACTERS:,} a row")
                # From here, for reading on may have moved what is read.
                self._go_to(self._place + length)
                return value, repeated

    def broken(self, where: str, reason: str) -> DataError:
        return DataError(f"{self._path}: {where} (line {self._line} on): {reason}.")

    def _go_to(self, place: int) -> None:
        self._line += self._text.count("\n", self._place, place)
        self._place = place

    def _more(self) -> bool:
        """Read as much again as is not used yet, so that long rows take few attempts."""
        rest = self._text[self._place :]
        wanted, added = max(1, len(rest)), []
        while wanted > 0 and (piece := next(self._pieces, "")):
            added.append(piece)
            wanted -= len(piece)
        self._text, self._place = rest + "".join(added), 0
        return bool(added)

    def _read(self) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8-sig")()
        end = 0
        with opened(self._path) as file:
            while raw := file.read(AHEAD_BYTES):
                end += len(raw)
                # Nothing may come of a few bytes, and nothing stands for the end.
                if text := self._decoded(decoder, raw, end):
                    yield text
            self._decoded(decoder, b"", end)

    def _decoded(self, decoder: codecs.IncrementalDecoder, raw: bytes, end: int) -> str:
        try:
            return decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            raise not_utf8(self._path, end - len(error.object) + error.start, error) from None
