"""Fields of rows that nothing reads: how many there are, and which of them carry meaning that would be lost.

Real rows have fields that only tell where they are from (`source`, `url`, `score`); these are counted. By convention
others say what a model is to learn, or how: such a field is an error until the recipe says that it may go.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from potstill.data.meanings import (
    ABOUT,
    SECOND,
    STANCES,
    TOPIC,
    Meaning,
    Meanings,
    is_empty,
    parts_of,
    plain,
    stands_in,
)
from potstill.data.opening import is_table

MOST_NAMES = 1000
"""Names of fields that are counted one by one; rows whose fields are named by their content have no end of them."""
LONGEST_NAME = 60
OTHERS = "(others)"
MOST_VALUES = 100
"""Different values of a field that are compared with the classes; a label has fewer."""
MORE_ROWS_THAN_VALUES = 5
"""By so many more rows than values a field must agree with the label, so that it is no chance: 1 in 2^5 for two."""
MOST_LISTED = 6

LABELS = frozenset(
    {"label", "labels", "labelname", "labelnames", "labelid", "labelids", "labeltext", "goldlabel", "truelabel"}
    | {"class", "classes", "classname", "category", "categories", "target", "targets", "y", "intent", "sentiment"}
    | {"emotion", "topic", "stance", "tag", "tags", "annotation", "gold", "answer"}
)
"""What a column of classes or numbers is called."""
WORDS_OF_YAML = frozenset({"null", "true", "false", "yes", "no", "on", "off"})
"""What YAML 1.1 or 1.2 reads as null or a Boolean."""
ALSO_METADATA = frozenset({"category", "categories", "topic", "tag", "tags", "annotation", "answer", "answers"})
"""Of what labels are called: what as often tells where a row is from. Alone, in a file without a label, it says
nothing."""
TAGS = frozenset(
    {"tags", "tag", "nertags", "ner", "nerlabels", "postags", "pos", "labels", "label", "bio", "biotags", "iob"}
    | {"iobtags", "entities", "spans", "slots"}
)
RESPONSES = frozenset(
    {"completion", "completions", "output", "outputs", "response", "responses", "answer", "answers", "target"}
    | {"targets", "solution", "chosen", "summary", "highlights", "translation", "reference", "references", "label"}
    | {"labels", "tgt"}
)


@dataclass(frozen=True)
class Form:
    """What a reader makes of records, as far as the fields depend on it that it does not read."""

    reads: frozenset[str]
    """The columns that it reads."""
    id: str
    """The one that names the row."""
    text: str
    """The column beside which another may be a second text."""
    label: str
    """The column that says what is right."""
    setting: str
    """Its name in `data.columns`."""
    meanings: Meanings
    labels: frozenset[str]
    """What the column of labels is called elsewhere."""
    beside: Meanings = field(default_factory=dict)
    """What fields mean beside a text."""
    second: Meaning = SECOND
    pairs: frozenset[frozenset[str]] = frozenset()
    """First and second texts."""
    blank: str | None = None
    """The column of a text that may be empty, by which the row is blank and dropped later."""
    reads_of: Callable[[Mapping[str, Any]], frozenset[str]] | None = None
    """Which of them it reads of a row, where a file may have rows of two kinds."""

    def read_of(self, record: Mapping[str, Any]) -> frozenset[str]:
        """The columns that it reads of a row."""
        return self.reads if self.reads_of is None else self.reads_of(record)

    def with_blank(self, file: Path, record: Any) -> Any:
        """The record, with an empty text where a table has nothing, as other files have it."""
        if isinstance(record, dict) and self.blank in record and record[self.blank] is None and is_table(file):
            return {**record, self.blank: ""}
        return record

    def meaning(self, name: str) -> Meaning | None:
        """What a field of this name means, where its value has a meaning."""
        known = plain(name)
        if known in self.meanings:
            return self.meanings[known]
        return self.second if self._is_second(known) else self.beside.get(known)

    def has_meaning(self, name: str, meaning: Meaning, record: Mapping[str, Any]) -> bool:
        """Whether the value in this row has it."""
        beside = plain(name) not in self.meanings
        return meaning.of(record[name]) and not (beside and is_empty(record.get(self.text)))

    def is_said(self, value: Any, record: Mapping[str, Any]) -> bool:
        """Whether the text that is read has the value within."""
        read = [part for name in sorted(self.read_of(record) & record.keys()) for part in parts_of(record[name])]
        return stands_in(value, "\n".join(part for part in read if isinstance(part, str)))

    def _is_second(self, known: str) -> bool:
        first = plain(self.text)
        # In either order, but that a text without such an end is the first.
        numbered = is_numbered(first, known) or is_numbered(known, first, NUMBERED[:2])
        return frozenset({first, known}) in self.pairs or (numbered and bool(self.beside))


NUMBERED = (("1", "2"), ("a", "b"), ("", "2"), ("", "pair"))
"""With what the names of a first and a second text end: review1, review2; text_a, text_b; comment, comment2."""


def is_numbered(first: str, second: str, ends: Collection[tuple[str, str]] = NUMBERED) -> bool:
    """Whether two plain names are those of a first and a second text by their ends."""
    return any(first.endswith(one) and second == first.removesuffix(one) + two for one, two in ends)


@dataclass
class _Agreement:
    """Whether a field and the label stand for each other in the rows that have both."""

    rows: int = 0
    _same: bool = True
    _one_to_one: bool = True
    _labels: dict[str, str] = field(default_factory=dict)
    """By the field's value."""
    _values: dict[str, str] = field(default_factory=dict)
    """By the label."""

    def see(self, value: Any, label: Any) -> None:
        self.rows += 1
        if not (self._same or self._one_to_one):
            return
        one, other = _key(value), _key(label)
        if one is None or other is None:
            self._same = self._one_to_one = False
            return
        self._same = self._same and one == other
        if self._one_to_one:
            mapped = self._labels.setdefault(one, other) == other and self._values.setdefault(other, one) == one
            self._one_to_one = mapped and len(self._labels) <= MOST_VALUES

    def holds(self) -> bool:
        enough = self.rows >= len(self._labels) + MORE_ROWS_THAN_VALUES
        return len(self._labels) > 1 and (self._same or (self._one_to_one and enough))


def _key(value: Any) -> str | None:
    """A class, several in any order, a number or a text, to be compared; None for what no label is."""
    if isinstance(value, list) and all(isinstance(each, str | int | float) for each in value):
        return json.dumps(sorted(map(str, value)))
    return str(value) if isinstance(value, str | int | float) else None


@dataclass
class _Field:
    meaning: Meaning | None
    """What a field of this name means, where its value has a meaning."""
    rows: int = 0
    unlabelled: int = 0
    first_unlabelled: str = ""
    nested: bool = False
    """Whether a row without a label has a list of objects or lists there, as spans are written."""
    values: set[str] = field(default_factory=set)
    """Of rows without a label, up to one more than are compared."""
    binary: bool = True
    """Whether all values are 0 or 1."""
    agreement: _Agreement = field(default_factory=_Agreement)
    with_meaning: int = 0
    first_with_meaning: str = ""
    different: set[int] = field(default_factory=set)
    """Hashes of the first two different values with a meaning."""
    unsaid: bool = False
    """Whether the text that is read does not have it within, in some row."""


class Unread:
    """The fields of a file that its reader does not read, nor keeps beside the rows. Those without a value count for
    nothing: Parquet gives each row every column."""

    def __init__(self, form: Form, kept: Collection[str] = ()) -> None:
        self._form = form
        self._kept = frozenset(kept)
        self._fields: dict[str, _Field] = {}
        self._rows = self._unlabelled = 0

    @property
    def counts(self) -> dict[str, int]:
        """In how many rows each field is, the most frequent first."""
        return {
            name: each.rows for name, each in sorted(self._fields.items(), key=lambda pair: (-pair[1].rows, pair[0]))
        }

    def see(self, place: str, record: Mapping[str, Any], *, labelled: bool) -> None:
        """Count the fields of a row that was read."""
        self._rows += 1
        self._unlabelled += not labelled
        label = record.get(self._form.label)
        for name in record.keys() - self._form.read_of(record) - self._kept:
            value = record[name]
            if is_empty(value):
                continue
            found = self._field(name)
            found.rows += 1
            found.binary = found.binary and isinstance(value, str | int | float) and _is_binary(value)
            if (meaning := found.meaning) and self._form.has_meaning(name, meaning, record):
                found.with_meaning += 1
                found.first_with_meaning = found.first_with_meaning or place
                if len(found.different) < 2:
                    found.different.add(hash(tuple(map(str, parts_of(value)))))
                found.unsaid = found.unsaid or meaning.inside or not self._form.is_said(value, record)
            if labelled and label is not None:
                found.agreement.see(value, label)
            if not labelled:
                found.unlabelled += 1
                found.first_unlabelled = found.first_unlabelled or place
                found.nested = found.nested or (isinstance(value, list) and isinstance(value[0], dict | list))
                if len(found.values) <= MOST_VALUES and isinstance(value, str | int):
                    found.values.add(str(value)[:MOST_VALUES])

    def _field(self, name: str) -> _Field:
        found = self._fields.get(name)
        if found is None:
            meaning = self._form.meaning(name)
            pooled = len(self._fields) >= MOST_NAMES and meaning is None
            found = self._fields.setdefault(OTHERS if pooled else name, _Field(meaning))
        return found

    def problems(self, path: Path, classes: Collection[str]) -> Iterator[str]:
        """An error for each field whose meaning would be lost, where `classes` are those that labelled rows have."""
        for name, each in sorted(self._fields.items()):
            label_like = self._looks_like_the_label(name, each, classes)
            lost = self._lost(name, each)
            if lost is not None and (lost.certain or _is_stance(lost, classes)) and (lost.alike or not label_like):
                yield (
                    f"{path}: {each.with_meaning:,} of {self._rows:,} rows have {shown(name)}, first "
                    f"{each.first_with_meaning}, which is not read. It is {lost.words}. {leaves_out(name)}"
                )
            elif label_like:
                yield f"{path}: {self._without_label(name, each)}"
            elif self._agrees(each):
                yield (
                    f'{path}: {self._unlabelled:,} of {self._rows:,} rows have no "{self._form.label}", and all rows '
                    f"have {shown(name)}, which agrees with it wherever both are, so that it looks like it. Set "
                    f"data.columns.{self._form.setting}: {in_yaml(name)}. {leaves_out(name)}"
                )
        yield from self._one_column_a_class(path)

    def doubts(self, classes: Collection[str]) -> list[str]:
        """Fields that may belong to the text, and are as often metadata."""
        found = [
            name
            for name, each in self._fields.items()
            if (lost := self._lost(name, each)) and not lost.certain and not _is_stance(lost, classes)
        ]
        return sorted(found)

    def _lost(self, name: str, each: _Field) -> Meaning | None:
        """What is lost where a field is not read, if anything."""
        meaning = each.meaning
        if meaning is None or not each.with_meaning or not each.unsaid:
            return None
        if meaning.alike:
            return meaning
        # No answer can depend on what is the same in all rows, and what says the same as the label is no question.
        constant = each.with_meaning == self._rows > 1 and len(each.different) == 1
        if constant or each.agreement.holds():
            return None
        # Where few labelled rows have it, it is rather a label of the others under another name.
        some = each.agreement.rows < self._rows - self._unlabelled
        return None if meaning in (ABOUT, TOPIC) and plain(name) in self._form.labels and some else meaning

    def _looks_like_the_label(self, name: str, each: _Field, classes: Collection[str]) -> bool:
        # Where labelled rows have it too, it is something else that they have beside their label.
        if not each.unlabelled or each.unlabelled < each.rows:
            return False
        known = bool(each.values) and len(each.values) <= MOST_VALUES and each.values <= set(classes)
        # Tags are what a tagged row is for, whatever else is labelled.
        doubtful = plain(name) in ALSO_METADATA and self._form.labels is not TAGS and self._unlabelled == self._rows
        return (plain(name) in self._form.labels and not doubtful) or known

    def _agrees(self, each: _Field) -> bool:
        """Whether all rows have it, and those with a label say the same there, so that it is that of the others."""
        labelled = self._rows - self._unlabelled
        return (
            0 < each.unlabelled < each.rows == self._rows and each.agreement.rows == labelled and each.agreement.holds()
        )

    def _without_label(self, name: str, each: _Field) -> str:
        label, setting = self._form.label, self._form.setting
        missing = (
            f'{self._unlabelled:,} of {self._rows:,} rows have no "{label}", and {each.unlabelled:,} of these have '
            f"{shown(name)}, first {each.first_unlabelled}, which looks like it"
        )
        if each.nested and self._form.setting == "tags" and self._form.labels is TAGS:
            return (
                f'{missing}, but holds spans. Write a tag for each word instead, such as "{label}": ["B-PER", "I-PER", '
                f'"O"]. {leaves_out(name)}'
            )
        return (
            f"{missing}. Give it one name in all rows, and set data.columns.{setting} where that is another than "
            f"{label}. {leaves_out(name)}"
        )

    def _one_column_a_class(self, path: Path) -> Iterator[str]:
        """Where no row is labelled, and several columns say 0 or 1 in all of them."""
        if self._form.labels is not LABELS or not self._rows or self._unlabelled < self._rows:
            return
        columns = sorted(name for name, each in self._fields.items() if each.binary and each.rows == self._rows)
        if len(columns) > 1:
            names = ", ".join(map(shown, columns[:MOST_LISTED])) + (", ..." if len(columns) > MOST_LISTED else "")
            yield (
                f'{path}: no row has "{self._form.label}", and {names} are 0 or 1 in all rows. If these are its '
                f'classes, write the names of those that are 1 as one list, "{self._form.label}": '
                f"[{shown(columns[0])}], and [] where none is, with task.problem_type: multi_label_classification."
            )


def _is_stance(meaning: Meaning, classes: Collection[str]) -> bool:
    return meaning is TOPIC and len(STANCES & {plain(name) for name in classes}) > 1


def _is_binary(value: Any) -> bool:
    return str(value) in ("0", "1", "0.0", "1.0", "True", "False")


def leaves_out(name: str) -> str:
    """The last sentence of an error about a field."""
    return f"data.ignore: [{in_yaml(name)}] leaves it out."


def in_yaml(name: str) -> str:
    """The name of a field as it stands in a recipe."""
    return name if name.isascii() and name.isidentifier() and name.lower() not in WORDS_OF_YAML else shown(name)


def shown(name: str) -> str:
    """The name of a field in quotes, of which control characters are escaped and the end is cut."""
    return json.dumps(name if len(name) <= LONGEST_NAME else name[:LONGEST_NAME] + "...", ensure_ascii=False)
