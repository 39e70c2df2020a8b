"""Files that are no rows as they stand: what they are, by name and bytes, and how to come to a file of rows."""

import codecs
import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from potstill.checkpoints import stands_in
from potstill.data.opening import AGAIN, form_of, is_packed, opened
from potstill.errors import DataError

HEAD_BYTES = 1 << 16
"""What is looked at of a file to find out what it is."""

SAMPLE_LINES = 20
"""Of these, whether they are a table, or words with tags."""

_RECORDS = 'orient="records", lines=True'
READ = (
    ".jsonl or .parquet, .json with one list of rows, .csv, .tsv, .arrow or .conll, and what is text perhaps with .gz "
    "or .zst behind it"
)
"""What suffixes are read."""
TAGGED = (".conll", ".iob", ".iob2", ".bio", ".bioes")
"""Those of words with their tags."""
_TABLES = {",": ".csv", ";": ".csv", "\t": ".tsv"}
"""By what parts the fields of a line."""
_FEATHER = f'With pandas: read_feather("rows.feather").to_json("rows.jsonl", {_RECORDS}).'
_UNPACK = "Unpack it first."

CONVERT = {
    ".txt": 'Write one row a line: {"text": ...}.',
    ".feather": _FEATHER,
    **dict.fromkeys((".xlsx", ".xls"), f'With pandas: read_excel("rows.xlsx").to_json("rows.jsonl", {_RECORDS}).'),
    **dict.fromkeys((".pkl", ".pickle"), f'Where it was made, with pandas: df.to_json("rows.jsonl", {_RECORDS}).'),
    **dict.fromkeys((".bz2", ".xz", ".zip", ".tar", ".tgz"), _UNPACK),
    **dict.fromkeys((".gz", ".zst"), "Name it after what is in it, such as rows.jsonl{suffix}."),
    ".conllu": "Its last column holds no tags. Write the word and its tag in two columns, as .conll.",
}
"""How to come from other formats to one that is read."""

BYTES = {
    b"PAR1": ("a Parquet file", "Name it .parquet."),
    b"ARROW1": ("an Arrow file", "Name it .arrow."),
    b"\xff\xff\xff\xff": ("an Arrow stream", "Name it .arrow."),
    b"\x1f\x8b": ("compressed with gzip", "Name it .gz behind the suffix of what is in it, such as rows.jsonl.gz."),
    b"BZh": ("compressed with bzip2", f"{_UNPACK[:-1]}: bzip2 -dc."),
    b"\xfd7zXZ": ("compressed with xz", f"{_UNPACK[:-1]}: xz -dc."),
    b"\x28\xb5\x2f\xfd": (
        "compressed with zstd",
        "Name it .zst behind the suffix of what is in it, such as rows.jsonl.zst.",
    ),
    b"PK\x03\x04": ("a zip archive, or of a format made of one such as .xlsx", f"{_UNPACK[:-1]}, or export its rows."),
    b"SQLite format 3": ("an SQLite database", "Export its rows."),
    b"\x89HDF": ("an HDF5 file", "Export its rows."),
    b"Obj\x01": ("an Avro file", "Export its rows."),
    b"%PDF": ("a PDF file", "Write its text as rows."),
}
"""With what bytes other files begin, none of which begins JSON."""

_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_NULS: dict[tuple[bool, ...], str] = {
    (False, True, True, True): "UTF-32LE",
    (True, True, True, False): "UTF-32BE",
    (False, True, False, True): "UTF-16LE",
    (True, False, True, False): "UTF-16BE",
}
"""Where the first four bytes are NUL, for JSON begins with two characters of ASCII (RFC 4627, section 3)."""

_TAG = re.compile(r"\S.*\s(O|[BIESLUM]-\S+)", re.ASCII)
_WRAPPERS = frozenset({"data", "rows", "records", "items", "examples", "instances", "results", "train", "validation"})
"""What the list of all rows is called in an object around it."""
_ROW_KEYS = frozenset({"text", "sentence", "tokens", "prompt", "instruction", "messages", "conversations", "source"})


def not_a_file(path: Path) -> DataError:
    """For a path at which there is nothing that has rows."""
    hub = "" if path.suffix else " Rows of the hub are named hf:organisation/name."
    return DataError(f"{path}: no such file. data takes paths relative to the recipe.{hub}")


def require_no_stand_in(path: Path) -> None:
    """Raises DataError: a git-lfs pointer, or a web page."""
    if reason := stands_in(path):
        raise DataError(f"{path}: {reason}")


def unknown_format(path: Path) -> DataError:
    """For a file whose name ends as none that is read."""
    if is_packed(path) and form_of(path) in (".parquet", ".arrow"):
        return DataError(f"{path}: only files of text are read compressed. {_UNPACK}")
    return DataError(f"{path}: unknown format {form_of(path)!r}; expected {READ}. {how_to_convert(path)}")


def how_to_convert(path: Path) -> str:
    """How to come from a file that is not read to one that is."""
    suffix = path.suffix.lower() if is_packed(path) and not form_of(path) else form_of(path)
    known = CONVERT.get(suffix, "").replace("{suffix}", path.suffix)
    if suffix in CONVERT and suffix != ".txt":
        return known
    return _by_content(path) or known or "Convert it."


def looks_tagged(path: Path) -> bool:
    """Whether the first lines of a file are words with their tags."""
    head = _head(path)
    return _binary(head) is None and _is_tagged(_lines(head))


def _by_content(path: Path) -> str:
    head = _head(path)
    if what := _binary(head):
        return f"It is {what[0]}. {what[1]}"
    lines = _lines(head)
    if _is_tagged(lines):
        return "It looks like CoNLL. Name it .conll."
    if told := _json(lines):
        return told
    return _table(lines) if form_of(path) != ".txt" else ""


def require_json(path: Path) -> None:
    """Refuse a file of which the beginning shows that it is something else than JSON in UTF-8.

    Raises:
        DataError: says what it is.
    """
    lines = _lines_of_text(path, "JSON")
    if _is_tagged(lines):
        raise DataError(f"{path}: line 1 on: no JSON. It looks like CoNLL. Name it .conll.")
    if told := _table(lines):
        raise DataError(f"{path}: line 1 on: no JSON. {told}")


def require_text(path: Path, what: str) -> None:
    """Refuse a file of which the beginning shows that it is something else than text in UTF-8, or is JSON.

    Raises:
        DataError: says what it is, and that it is no `what`.
    """
    if told := _json(_lines_of_text(path, what)):
        raise DataError(f"{path}: line 1 on: no {what}. {told}")


def _lines_of_text(path: Path, what: str) -> list[str]:
    """The first lines; raises DataError where they are no text in UTF-8."""
    head = _head(path)
    if binary := _binary(head):
        raise DataError(f"{path}: no {what}. It is {binary[0]}. {binary[1]}")
    mark = next((name for mark, name in _MARKS.items() if head.startswith(mark)), None)
    how, encoding = "by its byte-order mark", mark
    if encoding is None:
        how, encoding = "by its NUL bytes", _NULS.get(tuple(byte == 0 for byte in head[:4]))
    if encoding is not None:
        raise DataError(f"{path}: not UTF-8 (byte 0 on: {encoding}, {how}). Convert it: iconv -f {encoding} -t UTF-8.")
    return _lines(head)


def not_parquet(path: Path) -> DataError:
    """For a .parquet file that does not begin as one."""
    return DataError(f"{path}: not a readable Parquet file. {_by_content(path) or AGAIN}")


def rows_in_one(record: Any, reads: Collection[str] = (), *, lists_in_rows: bool) -> str | None:
    """How an object holds many rows, and how to write them instead; None for one that does not.

    `reads` are the columns that are read of a row, where these are known: a list in them is none of rows.
    `lists_in_rows` says whether the values of a single row may all be lists, such as its tokens and tags.
    """
    if not isinstance(record, dict) or not record:
        return None
    pandas = f"Write one row a line: df.to_json(path, {_RECORDS})."
    if isinstance(record.get("columns"), list) and isinstance(record.get("data"), list):
        return f'one object of columns, index and data, as pandas writes it with orient="split". {pandas}'
    for key, value in record.items():
        inside = value[0] if isinstance(value, list) and value else None
        if isinstance(inside, dict) and key not in reads and (key.casefold() in _WRAPPERS or inside.keys() & _ROW_KEYS):
            name = json.dumps(key, ensure_ascii=False)
            return f"""one object. Its {name} is a list of rows; write its items: jq -c '.[{name}][]'."""
    first = next(iter(record.values()))
    if isinstance(first, dict) and first and all(_same_keys(value, first) for value in record.values()):
        if all(key.isdecimal() for key in first):
            return f"one object of columns, as pandas writes it. {pandas}"
        if all(key.isdecimal() for key in record):
            return f'one object of rows by their number, as pandas writes it with orient="index". {pandas}'
    if all(isinstance(value, list) and len(value) == len(first) > 0 for value in record.values()):
        items = [item for value in record.values() for item in value]
        # One item may as well be what is wrong with a single row.
        if len(items) > 1 and all(isinstance(item, list) if lists_in_rows else _is_plain(item) for item in items):
            return (
                f"one object of columns that are lists of {len(first):,} values. Write one row a line; with pandas: "
                f"DataFrame(columns).to_json(path, {_RECORDS})."
            )
    return None


def about_bytes(value: bytes) -> str:
    """What is to be done about bytes that should be text."""
    try:
        value.decode()
    except UnicodeDecodeError as error:
        return f"They are not UTF-8 (byte {error.start}: {error.reason}). Write the text in UTF-8."
    return 'The column is of type binary; write its values as text: value.decode("utf-8").'


def _same_keys(value: Any, first: dict[str, Any]) -> bool:
    return isinstance(value, dict) and value.keys() == first.keys()


def _is_plain(item: Any) -> bool:
    """Not a turn of a conversation."""
    return not isinstance(item, dict)


def _head(path: Path) -> bytes:
    with opened(path) as file:
        return file.read(HEAD_BYTES)


def _binary(head: bytes) -> tuple[str, str] | None:
    return next((what for magic, what in BYTES.items() if head.startswith(magic)), None)


def _lines(head: bytes) -> list[str]:
    """The first lines that are not empty."""
    lines = head.removeprefix(codecs.BOM_UTF8).decode(errors="replace").split("\n")
    if len(head) == HEAD_BYTES and len(lines) > 1:
        # It may be cut.
        del lines[-1]
    return [line for line in lines if line.strip()][:SAMPLE_LINES]


def _begins_json(line: str) -> bool:
    return line.lstrip()[:1] in ("{", "[")


def _json(lines: list[str]) -> str:
    """What to do about lines that are JSON; empty for others."""
    if not any(map(_begins_json, lines[:1])):
        return ""
    try:
        json.loads(lines[0])
    except json.JSONDecodeError as error:
        # A list over several lines ends too early; a name in brackets is no value.
        if error.pos < len(lines[0].rstrip()):
            return ""
    except (RecursionError, ValueError):
        pass
    return f"It begins as JSON: name it {'.json' if lines[0].lstrip()[0] == '[' else '.jsonl'}."


def _is_tagged(lines: list[str]) -> bool:
    """Whether each line is a word, perhaps more of it, and its tag."""
    words = [line for line in lines if not line.startswith(("#", "-DOCSTART-"))]
    several = len(words) > 1 or len(lines) > len(words) > 0
    return several and not _begins_json(words[0]) and all(_TAG.fullmatch(line.strip()) for line in words)


def _table(lines: list[str]) -> str:
    """What to do about a table, as which the lines look if most of them have several fields and none is JSON."""
    mark = next((mark for mark in "\t,;" if lines and mark in lines[0]), None)
    if mark is None or any(map(_begins_json, lines)) or 2 * sum(mark in line for line in lines) <= len(lines):
        return ""
    try:
        json.loads(lines[0])
    except (RecursionError, ValueError):
        return f"It looks like a table. Name it {_TABLES[mark]}."
    return ""
