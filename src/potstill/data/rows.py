"""A row, and the reading of rows from files of all forms, with one clear error for each bad one."""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from potstill.data.cells import Cell, as_list
from potstill.data.columns import Columns
from potstill.data.fields import LABELS, TAGS, Form, Unread, in_yaml, shown
from potstill.data.formats import about_bytes, rows_in_one
from potstill.data.ids import Index, Keys
from potstill.data.label_checks import instead_of
from potstill.data.meanings import BESIDE_TEXT, IN_TEXTS, PAIRS_OF_TEXTS
from potstill.data.on_disk import OnDisk, rows_on_disk
from potstill.data.reading import Places, Reading
from potstill.data.sources import read_source
from potstill.errors import DataError

SETTING = "Set data.columns.text to the column that holds the text."
SPANS = "Write names alone; spans of a text are read with task.kind: token_classification and data.columns.spans"
BETWEEN = "\n\n"
"""What stands between the two texts of a pair where both are read as one."""
OWN_ID = "Give each row an id of its own; rows without one are named by their text."


@runtime_checkable
class DataRow(Protocol):
    """What the preparation of data knows of a row, whatever the task makes of it."""

    @property
    def id(self) -> str: ...

    @property
    def text(self) -> str:
        """What a person would read: by it duplicates and near-copies are found."""
        ...

    @property
    def own_text(self) -> str:
        """The text without what is told to the model in every row, such as a system turn."""
        ...

    @property
    def label(self) -> Any:
        """What is right for the text, where that does not stand in the text itself."""
        ...

    @property
    def labelled(self) -> bool:
        """Whether it says what is right: a class, or a response."""
        ...

    @property
    def content(self) -> list[Any]:
        """All that it says, as JSON has it."""
        ...


R = TypeVar("R", bound=DataRow)
Label = str | tuple[str, ...] | float
"""What a row is labelled with: one class, several in alphabetical order, or a number."""


@dataclass(frozen=True, slots=True)
class Row:
    id: str
    text: str
    """Of a pair both, with a blank line between them."""
    label: Label | None
    domain: str | None = None
    second_at: int | None = None
    """Of a pair, where the second text begins."""

    @property
    def texts(self) -> tuple[str, ...]:
        """The one text, or the two of a pair."""
        at = self.second_at
        return (self.text,) if at is None else (self.text[: at - len(BETWEEN)], self.text[at:])

    @property
    def own_text(self) -> str:
        return self.text

    @property
    def labelled(self) -> bool:
        return self.label is not None

    @property
    def content(self) -> list[Any]:
        # Without a domain and a pair as it ever was, so that a run from before there were any goes on.
        if self.second_at is not None:
            return [self.id, self.text, self.label, self.domain, self.second_at]
        return [self.id, self.text, self.label, *([] if self.domain is None else [self.domain])]

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that its label names."""
        if isinstance(self.label, str):
            return (self.label,)
        return self.label if isinstance(self.label, tuple) else ()

    @classmethod
    def of(cls, content: list[Any]) -> "Row":
        identity, text, label, *rest = content
        return cls(identity, text, tuple(label) if isinstance(label, list) else label, *rest)


LabelIn = Callable[[Path, str, str, Any], Label]
"""What stands in the label's column, which is not null, as a label: from file, place, column and value."""


def class_in(path: Path, place: str, column: str, value: Any) -> str:
    """One class.

    Raises:
        DataError: it is none.
    """
    if isinstance(value, float) and math.isnan(value):
        raise DataError(f'{path}: {place} "{column}": NaN; use null for a row without a label.')
    if isinstance(value, float) and value.is_integer():
        # An id, as pandas writes it beside missing ones.
        value = int(value)
    if isinstance(value, bool | float | list | dict):
        kind = type(value).__name__
        raise DataError(f'{path}: {place} "{column}": expected a class name, found {kind}.{instead_of(value)}')
    label = string_in(path, place, column, value if isinstance(value, bytes) else str(value))
    if not label:
        raise DataError(f'{path}: {place} "{column}": empty; use null for a row without a label.')
    return label


def classes_in(path: Path, place: str, column: str, value: Any) -> tuple[str, ...]:
    """Several classes, in alphabetical order.

    Raises:
        DataError: they are no list of names.
    """
    value = as_list(value)
    if not isinstance(value, list):
        kind = type(value).__name__
        raise DataError(
            f'{path}: {place} "{column}": expected a list of class names, found {kind}. A text with none has [], one '
            + (
                'without a label nothing, and one with two ["mit", "gpl"].'
                if isinstance(value, Cell)
                else "without a label null."
            )
        )
    if wrong := [each for each in value if each is None or isinstance(each, list) or _has_start(each)]:
        found = "null" if wrong[0] is None else "a list" if isinstance(wrong[0], list) else "an object"
        fix = f"{SPANS}: {in_yaml(column)}." if isinstance(wrong[0], list | dict) else "Leave it out."
        raise DataError(f'{path}: {place} "{column}": expected a list of class names, found {found} in it. {fix}')
    if value and all(isinstance(each, bool | float) for each in value):
        raise DataError(
            f'{path}: {place} "{column}": expected a list of class names, found one of {type(value[0]).__name__}. '
            "Write the names of the labels that hold, and [] where none does."
        )
    names = {class_in(path, place, column, each) for each in value}
    if len({isinstance(each, str) for each in value}) > 1:
        raise DataError(f'{path}: {place} "{column}": numbers and names in one list; write all classes in one way.')
    return tuple(sorted(names))


def _has_start(item: Any) -> bool:
    return isinstance(item, dict) and "start" in item


def read_rows(path: Path, columns: Columns, label_in: LabelIn = class_in, *, how: Reading | None = None) -> OnDisk[Row]:
    """All rows of a file, in its order. Blank lines count as nothing.

    Raises:
        DataError: the file, its bad rows by line or row number, or a field whose meaning would be lost.
    """
    how = how or Reading()

    def row_of(path: Path, place: str, record: Any) -> Row:
        row = _row(path, place, record, columns, label_in)
        if isinstance(row.label, float):
            how.numbers.add(path, place, row.label)
        elif row.labelled:
            how.classes.add(path, place, record[columns.label], row.classes)
        how.pairs.add(path, place, columns.text_pair, paired=row.second_at is not None)
        return row

    form = Form(
        reads=frozenset({columns.id, columns.text, columns.label, columns.domain} | columns.of_pairs),
        id=columns.id,
        text=columns.text,
        label=columns.label,
        setting="label",
        meanings=IN_TEXTS,
        labels=LABELS,
        beside=BESIDE_TEXT,
        pairs=PAIRS_OF_TEXTS,
        blank=columns.text,
    )
    return read_each(path, row_of, _stands_for, form=form, how=how)


def _stands_for(row: Row) -> str:
    return row.text if row.second_at is None else json.dumps(row.texts)


def read_each(
    path: Path,
    row_of: Callable[[Path, str, Any], R],
    stands_for: Callable[[R], str],
    *,
    form: Form,
    how: Reading | None = None,
) -> OnDisk[R]:
    """What `row_of` makes of each record of what `path` stands for, in its order, from file, place and record.

    Labels are found by id, so an id of two contents would give one of them the labels of the other. The same content
    again is a duplicate, and dropping those is left to who prepares the data.

    Raises:
        DataError: no rows, bad rows, fields whose meaning would be lost, or an id that stands for two contents.
    """
    how = how or Reading()
    notes = how.begin(path)
    ids, contents, places, kept = Keys(), Keys(), Places(), how.kept_fields()
    unread, only_bad = Unread(form, how.keep), ("", None)
    tagged = (form.text, form.label) if form.labels is TAGS else None

    def read() -> Iterator[R]:
        nonlocal only_bad
        for file, place, record in read_source(path, notes, reads=form.reads - how.ignore, tagged=tagged):
            given = form.with_blank(file, how.without_ignored(record, notes))
            try:
                row = row_of(file, place, given)
            except DataError as error:
                only_bad = place, record
                notes.refuse(error)
                continue
            unread.see(place if file == path else f"{file.name}: {place}", given, labelled=row.labelled)
            ids.add(row.id)
            contents.add(stands_for(row))
            places.add(file, place)
            kept.add(given)
            yield row

    rows = rows_on_disk(read(), place=places, kept=kept)
    if (
        not rows
        and notes.bad == 1
        and (told := rows_in_one(only_bad[1], form.reads, lists_in_rows=form.labels is TAGS))
    ):
        raise DataError(f"{path}: {only_bad[0]}: {told}")
    notes.unread, notes.doubtful = unread.counts, unread.doubts(how.classes.classes)
    problems = [*notes.bad_rows(how.on_error), *unread.problems(path, how.classes.classes)]
    if problems:
        raise DataError("\n".join(problems))
    if not rows:
        skipped = f" ({notes.bad:,} skipped; {notes.first_bad[0]})" if notes.bad else ""
        raise DataError(f"{path}: 0 rows{skipped}. Nothing written.")
    first, content = Index(ids).first_with(), Index(contents).first_with()
    others = np.flatnonzero(content != content[first])
    if len(others):
        other = int(others[0])
        where = f"{places.within(int(first[other]))}, {places.within(other)}"
        raise DataError(f"{path}: {repeated_id(rows[other].id, where, form.id)}")
    return rows


def labelled_rows(rows: Sequence[Any]) -> Sequence[Any]:
    """Those that say what is right."""
    labelled = np.fromiter((row.labelled for row in rows), dtype=np.bool_, count=len(rows))
    if labelled.all():
        return rows
    return rows.where(labelled) if isinstance(rows, OnDisk) else [row for row in rows if row.labelled]


def rows_fingerprint(rows: Sequence[DataRow]) -> str:
    """sha256 over all content in order: the same rows in another file have the same fingerprint."""
    return _digest(row.content for row in rows)


def texts_fingerprint(rows: Sequence[DataRow]) -> str:
    """sha256 over ids and texts alone: what a classifier's answers depend on."""
    return _digest(
        [row.id, row.text, *([row.second_at] if isinstance(row, Row) and row.second_at is not None else [])]
        for row in rows
    )


def _digest(values: Iterable[list[Any]]) -> str:
    digest = hashlib.sha256()
    for value in values:
        digest.update(json.dumps(value).encode())
    return digest.hexdigest()


def text_id(text: str) -> str:
    """The id of a row that brings none: the first 16 hexadecimal digits of the sha256 of its text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _row(path: Path, place: str, record: Any, columns: Columns, label_in: LabelIn) -> Row:
    if not isinstance(record, dict):
        kind = type(record).__name__
        raise DataError(f"{path}: {place}: expected an object with {columns.text!r}, found {kind}.")
    if columns.text not in record:
        raise DataError(
            f'{path}: {place} has no "{columns.text}"; found {sorted(map(str, record))[:12]}. '
            f"{within(record, columns.text, columns.label) or SETTING}"
        )
    text = string_in(path, place, columns.text, record[columns.text])
    label = record.get(columns.label)
    if label is not None:
        label = label_in(path, place, columns.label, label)
    identity = id_in(path, place, columns.id, record.get(columns.id))
    domain = domain_in(path, place, columns.domain, record.get(columns.domain))
    if not columns.of_pairs or (second := record.get(columns.text_pair)) is None:
        return Row(text_id(text) if identity is None else identity, text, label, domain)
    second = string_in(path, place, columns.text_pair, second)
    own = text_id(json.dumps([text, second])) if identity is None else identity
    return Row(own, text + BETWEEN + second, label, domain, len(text + BETWEEN))


def within(record: Mapping[str, Any], *columns: str) -> str | None:
    """How a row is taken out of the one object that holds it, where there is one."""
    inside = [(name, value) for name, value in record.items() if isinstance(value, dict)]
    if len(inside) != 1:
        return None
    name, row = inside[0]
    if columns[0] in row:
        return f"Its {shown(name)} has; write that as the row: jq -c '.[{shown(name)}]'."
    if len(texts := [key for key, value in row.items() if isinstance(value, str)]) != len(columns):
        return None
    parts = ", ".join(f"{column}: .[{shown(name)}][{shown(key)}]" for column, key in zip(columns, texts, strict=True))
    return f"Its {shown(name)} holds texts; write them as columns: jq -c '{{{parts}}}'."


def id_in(path: Path, place: str, column: str, value: Any) -> str | None:
    """The id of a row as text, or None for a row that brings none.

    Raises:
        DataError: NaN, or not valid Unicode.
    """
    if value is None:
        return None
    if isinstance(value, float) and math.isnan(value):
        raise DataError(
            f'{path}: {place} "{column}": NaN is no id. Use null to name the row by its content, or leave all ids out '
            f"with data.ignore: [{in_yaml(column)}]."
        )
    return string_in(path, place, column, str(value))


def domain_in(path: Path, place: str, column: str, value: Any) -> str | None:
    """Of what kind a row is, if it says: a name, or a whole number as its text.

    Raises:
        DataError: anything else.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return None if value is None else string_in(path, place, column, value)


def repeated_id(identity: str, where: str, column: str) -> str:
    """The error for an id of two rows, which may be the number of a row in its file."""
    error = f'Duplicate id "{identity}": {where}. {OWN_ID}'
    # Rows without an id have such a one.
    own = re.fullmatch("[0-9a-f]{16}", identity) is None
    return f"{error} data.ignore: [{in_yaml(column)}] leaves all ids out." if own else error


def string_in(path: Path, place: str, column: str, value: Any) -> str:
    """`value`, which stands in `column` of that place, as text that can be written again.

    Raises:
        DataError: anything else than a string of valid Unicode.
    """
    if not isinstance(value, str):
        kind = type(value).__name__
        raise DataError(f'{path}: {place} "{column}": expected text, found {kind}. {_no_text(value)}')
    try:
        value.encode()
    except UnicodeEncodeError as error:
        code = ord(value[error.start])
        raise DataError(f'{path}: {place} "{column}": U+{code:04X} is not valid Unicode.') from None
    return value


def _no_text(value: Any) -> str:
    """What is to be done about a value that is no text."""
    if isinstance(value, bytes):
        return about_bytes(value)
    skip = "all that cannot be read are skipped with data.on_error: skip."
    return f"Drop the row; {skip}" if value is None else f"Write it as text, or drop the row; {skip}"
