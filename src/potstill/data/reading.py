"""How the rows of files are read, and what was found in the files beside the rows."""

from array import array
from bisect import bisect_right
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from potstill.data.kept_fields import KeptFields
from potstill.data.label_checks import ClassTally
from potstill.data.number_checks import NumberTally
from potstill.data.opening import is_table
from potstill.data.tag_schemes import TagTally
from potstill.errors import DataError

OnError = Literal["raise", "skip"]
PARTS_OF_TURNS = frozenset({"role", "content", "from", "value"})
"""What a turn is made of, so that a field of rows that is left out is not left out of turns if it has such a name."""
MOST_SHOWN = 10
"""Bad rows whose errors are shown; the others are counted."""


@dataclass
class FileNotes:
    """What of a file is not in its rows."""

    path: Path
    unread: dict[str, int] = field(default_factory=dict)
    """In how many rows each field is that nothing reads."""
    doubtful: list[str] = field(default_factory=list)
    """Those of them that may belong to the text."""
    ignored: dict[str, int] = field(default_factory=dict)
    """The same of those that the recipe leaves out."""
    source: str | None = None
    """What is known of where they are from, where that is more than one file."""
    bad: int = 0
    first_bad: list[str] = field(default_factory=list)

    def refuse(self, error: DataError) -> None:
        """Note a row that cannot be read."""
        self.bad += 1
        if len(self.first_bad) < MOST_SHOWN:
            self.first_bad.append(str(error))

    def bad_rows(self, on_error: OnError) -> Iterator[str]:
        """One error for all bad rows, where they are not skipped."""
        if self.bad and on_error == "raise":
            if self.bad > 1:
                yield f"{self.path}: {self.bad:,} bad rows; the first {len(self.first_bad)}:"
            yield from self.first_bad


class Places:
    """File and line of each row, of which memory holds a few bytes."""

    def __init__(self) -> None:
        self._numbers = array("q")
        self._files: list[tuple[Path, str]] = []
        self._starts: list[int] = []

    def add(self, file: Path, place: str) -> None:
        """Note the next row, from its file and its place there, such as `line 3`."""
        unit, number = place.split()
        if not self._files or self._files[-1] != (file, unit):
            self._files.append((file, unit))
            self._starts.append(len(self._numbers))
        self._numbers.append(int(number))

    def __call__(self, row: int) -> str:
        """File and line."""
        file, unit = self._of(row)
        return f"{file}: {unit} {self._numbers[row]}"

    def within(self, row: int) -> str:
        """The line, with the name of the file where the rows are of several."""
        file, unit = self._of(row)
        several = len({file for file, _ in self._files}) > 1
        return f"{file.name}: {unit} {self._numbers[row]}" if several else f"{unit} {self._numbers[row]}"

    def _of(self, row: int) -> tuple[Path, str]:
        return self._files[bisect_right(self._starts, row) - 1]


@dataclass
class Refusals:
    """Rows of which no tokens can be made, for one error."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, error: DataError, place: str | None) -> None:
        """Note a row that cannot be used, from a file and line where they are known."""
        self.count += 1
        if len(self.first) < MOST_SHOWN:
            self.first.append(str(error) if place is None else f"{place}: {error}")

    def require_none(self) -> None:
        """Raises DataError: there are some; names the first of them."""
        if self.count:
            several = [f"{self.count:,} rows cannot be used; the first {len(self.first)}:"] if self.count > 1 else []
            raise DataError("\n".join([*several, *self.first]))


class PairTally:
    """Which rows have a second text, over all files: all have one, or none has."""

    def __init__(self) -> None:
        self._counts = {True: 0, False: 0}
        self._first: dict[bool, str] = {}
        self._column, self._of_table = "", False

    def add(self, path: Path, place: str, column: str, *, paired: bool) -> None:
        """Count a row; `column` is that of second texts."""
        self._counts[paired] += 1
        if paired not in self._first:
            self._first[paired] = f"{path}: {place}"
            self._of_table = self._of_table or (not paired and is_table(path))
        self._column = column

    def problems(self, allowed: Collection[str]) -> Iterator[str]:
        """One error where some rows are pairs and some are not, or the recipe names a column that none has."""
        with_both, alone = self._counts[True], self._counts[False]
        if alone and (with_both or self._column != "text_pair"):
            where = " (with the rows as .jsonl, for a table has no empty text beside null)" if self._of_table else ""
            yield (
                f'data: {alone:,} of {with_both + alone:,} rows have no "{self._column}", first {self._first[False]}, '
                f'and a row without it is no pair. Write it in each row, as "" where it is empty{where}, or leave it '
                f"out of all with data.ignore: [{self._column}]."
            )


@dataclass
class Reading:
    """One for all files of a recipe, since labels are compared over all of them."""

    ignore: frozenset[str] = frozenset()
    """Fields that are taken for not being there."""
    on_error: OnError = "raise"
    keep: tuple[str, ...] = ()
    """Fields whose values are kept beside the rows."""
    classes: ClassTally = field(default_factory=ClassTally)
    tags: TagTally = field(default_factory=TagTally)
    numbers: NumberTally = field(default_factory=NumberTally)
    pairs: PairTally = field(default_factory=PairTally)
    files: dict[Path, FileNotes] = field(default_factory=dict)

    def begin(self, path: Path) -> FileNotes:
        """Fresh notes of a file."""
        self.files[path] = FileNotes(path)
        return self.files[path]

    def kept_fields(self) -> KeptFields:
        """Where the values of the fields that are kept go, of a file."""
        return KeptFields(self.keep)

    def without_ignored(self, record: Any, notes: FileNotes) -> Any:
        """The record without the fields that the recipe leaves out."""
        if not self.ignore or not isinstance(record, dict):
            return record
        for name in _named(record, self.ignore):
            notes.ignored[name] = notes.ignored.get(name, 0) + 1
        return {name: value for name, value in record.items() if name not in self.ignore}


def _named(record: dict[str, Any], names: frozenset[str]) -> set[str]:
    """Those of the names that have a value in a record, or in an item of a list in it, such as a turn."""
    inside = [item for value in record.values() if isinstance(value, list) for item in value if isinstance(item, dict)]
    of_turns = names - PARTS_OF_TURNS
    found = [(record, names), *((item, of_turns) for item in inside)]
    return {name for each, left_out in found for name in left_out & each.keys() if each[name] is not None}
