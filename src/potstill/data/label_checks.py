"""Questions about labels: what is read as a class and is likely none, or two that are likely one.

Such labels train without an error and cost quality. Each is an error until the recipe says that it is meant.
"""

import json
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NULLS = frozenset({"nan", "-nan", "nat", "null", "none", "<na>", "#n/a", "#n/a n/a", "#na", "\\n"})
"""How null is written by pandas, NumPy, Python, Excel and SQL (`\\N`), in lower case."""
NO_LABEL = (
    NULLS
    | {"-1", "-100", "n/a", "na", "-", "--", "?", "todo", "tbd", ""}
    | {"unlabeled", "unlabelled", "unannotated", "not labeled", "not labelled", "no label"}
)
"""Names that stand for a row without a label, in lower case: null, -1 in datasets' ClassLabel, -100 in losses of torch,
and those of annotation tools."""
SIGNS = frozenset({"-", "--"})
"""Of them, those that are a class beside a `+`."""
VARIATIONS = range(0xFE00, 0xFE10)
"""Characters that say how the one before them is drawn, such as an emoji in colour."""
NUMBER = re.compile(r"([-+]?)0*([0-9]+)(\.0+)?")
HYPHENS = re.compile(r"[-_\s\u2010-\u2015\u2212]+")
IN_ONE = re.compile(r"\s*[,;|]\s*")
LIST_TEXT = re.compile(r"""\[\s*(['"].*['"]|-?\d+(,?\s*-?\d+)*)?\s*\]|\{\s*['"].*\}""", re.DOTALL)
"""A list, a set or a mapping as Python or JSON write it; `[UNK]` is a name."""
SHOWN = 4
"""Names that one error lists."""


@dataclass
class Seen:
    """How often a label occurs, and where first."""

    count: int
    first: str

    def add(self, other: "Seen") -> "Seen":
        return Seen(self.count + other.count, self.first)


class ClassTally:
    """The classes of rows, over all files."""

    def __init__(self) -> None:
        self.classes: dict[str, Seen] = {}
        self._rows = 0
        self._numbers: set[str] = set()
        self._names: set[str] = set()
        self._vectors, self._lengths = 0, set[int]()
        self._repeated: Seen | None = None
        self._lists = False

    def add(self, path: Path, place: str, value: Any, classes: Iterable[str]) -> None:
        """Count the label of a row: what is in the file, and the classes that were read of it."""
        self._rows += 1
        for name in classes:
            if (seen := self.classes.get(name)) is None:
                self.classes[name] = Seen(1, f"{path}: {place}")
            else:
                seen.count += 1
        self._lists = self._lists or isinstance(value, list)
        for each in value if isinstance(value, list) else [value]:
            name = str(int(each)) if isinstance(each, float) else str(each)
            (self._numbers if isinstance(each, int | float) else self._names).add(name)
        if isinstance(value, list) and all(str(each) in ("0", "1") for each in value):
            self._vectors += 1
            if len(self._lengths) <= 1:
                self._lengths.add(len(value))
            if len(set(value)) < len(value):
                self._repeated = self._repeated or Seen(0, f"{path}: {place}")
                self._repeated.count += 1

    def problems(self, allowed: Collection[str]) -> Iterator[str]:
        """An error for each question that the recipe does not answer."""
        asked = {name: seen for name, seen in self.classes.items() if name not in allowed}
        # One number a row is a class.
        alike = self._vectors == self._rows and len(self._lengths) == 1 and min(self._lengths) > 1
        digits = [name for name in ("0", "1") if name in asked]
        if digits and (self._repeated or alike):
            count, first = (
                (self._repeated.count, self._repeated.first)
                if self._repeated
                else (self._rows, next(iter(self.classes.values())).first)
            )
            yield (
                f"data: {count:,} of {self._rows:,} labels are lists of numbers such as [0, 1, 0], first {first}, "
                "which would be read as the names 0 and 1. Write the names of the labels that hold, and [] where none "
                f"does{or_allow(digits)}"
            )
            return
        yield from no_labels(asked, NO_LABEL - (SIGNS if "+" in self.classes else set()), self._rows, "labels")
        yield from spelt_twice(self.classes, allowed, "classes")
        if joined := [name for name in asked if LIST_TEXT.fullmatch(name) or self._joins_others(name)]:
            fix = (
                "Write each name as an item of its own"
                if self._lists
                else "Write lists of names, and set task.problem_type: multi_label_classification"
            )
            yield (
                f"data: labels that are several classes, or a list of them, in one text: {listed(self.classes, joined)}"
                f". {fix}{or_allow(sorted(joined))}"
            )
        names = {name for name in self._names if name not in allowed and not name.lstrip("-").isdigit()}
        if names and self._numbers - set(allowed):
            yield (
                f"data: some labels are numbers ({listed(self.classes, self._numbers)}) and some are names "
                f"({listed(self.classes, names)}). Write all of them in one way{or_allow(sorted(self._numbers))}"
            )

    def _joins_others(self, name: str) -> bool:
        parts = IN_ONE.split(name)
        return len(parts) > 1 and all(part in self.classes for part in parts)


def no_labels(seen: Mapping[str, Seen], words: Collection[str], of: int, what: str) -> Iterator[str]:
    for name, each in sorted(seen.items()):
        word = " ".join(_visible(name).casefold().replace("_", " ").split())
        if word in words:
            yield no_label(name, each, of, what)


def no_label(name: str, seen: Seen, of: int, what: str) -> str:
    """The error for a name, or a number, that stands for none."""
    return (
        f"data: {quoted(name)} in {seen.count:,} of {of:,} {what}, first {seen.first}, often stands for a row without "
        f"a label. Use null there (in a table an empty field){or_allow([name])}"
    )


def spelt_twice(seen: Mapping[str, Seen], allowed: Collection[str], what: str) -> Iterator[str]:
    """An error for names that differ in how they are written alone."""
    alike: dict[str, list[str]] = {}
    for name in seen:
        alike.setdefault(_plain(name), []).append(name)
    for names in alike.values():
        if len(names) > 1 and len(set(names) - set(allowed)) > 1:
            yield (
                f"data: {what} that differ in case, white space, hyphens, leading zeros or invisible characters alone: "
                f"{listed(seen, names)}. Spell them in one way{or_allow(names)}"
            )


def _plain(name: str) -> str:
    """A name without what two spellings of it may differ in."""
    words = " ".join(_visible(unicodedata.normalize("NFKC", name)).casefold().split())
    if number := NUMBER.fullmatch(words):
        return number[1].strip("+") + number[2]
    # What is made of signs alone differs in them.
    return HYPHENS.sub(" ", words) if any(map(str.isalnum, words)) else words


def _visible(name: str) -> str:
    """A name without characters that show nothing, such as a byte order mark."""
    return "".join(each for each in name if unicodedata.category(each) != "Cf" and ord(each) not in VARIATIONS)


def listed(seen: Mapping[str, Seen], names: Iterable[str]) -> str:
    """Some names, the most frequent first, with counts and places."""
    order = sorted((name for name in names if name in seen), key=lambda name: (-seen[name].count, name))
    parts = [f"{quoted(name)} ({seen[name].count:,}, first {seen[name].first})" for name in order[:SHOWN]]
    return ", ".join(parts) + (f" and {len(order) - SHOWN} more" if len(order) > SHOWN else "")


def quoted(name: str) -> str:
    """A name in quotes, as JSON and YAML read it, so that white space, case and what shows nothing are seen."""
    return "".join(map(_escaped, json.dumps(name, ensure_ascii=False)))


def _escaped(character: str) -> str:
    number = ord(character)
    if character.isprintable() and number not in VARIATIONS:
        return character
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def instead_of(value: object) -> str:
    """What to write in place of a value that is no name of a class, after an error; empty where that is plain."""
    match value:
        case bool():
            return ' Write names in quotes, such as "true" and "false".'
        case float():
            return " Set task.problem_type: regression for numbers that are to be predicted."
        case list():
            return " Set task.problem_type: multi_label_classification for lists of classes."
        case dict():
            names = [each for each in value.values() if isinstance(each, str)]
            return f" Write the name alone{f', here {quoted(names[0])}' if names else ''}."
    return ""


def or_allow(names: Collection[str]) -> str:
    shown = ", ".join(map(quoted, list(names)[:SHOWN])) + (", ..." if len(names) > SHOWN else "")
    return f", or say that they are meant: data.allow_labels: [{shown}]."
