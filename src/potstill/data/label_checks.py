"""Questions about labels: what is read as a class and is likely none, or two that are likely one.

Such labels train without an error and cost quality. Each is an error until the recipe says that it is meant.
"""

import json
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NO_LABEL = frozenset(
    {"-1", "-100", "nan", "null", "none", "n/a", "na", "<na>", "?", "todo", "tbd"}
    | {"unlabeled", "unlabelled", "unannotated", "not labeled", "not labelled", "no label"}
)
"""Names that stand for a row without a label, in lower case: -1 in datasets' ClassLabel, -100 in losses of torch, the
words of pandas, NumPy and Python, and those of annotation tools."""
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

    def add(self, path: Path, place: str, value: Any, classes: Iterable[str]) -> None:
        """Count the label of a row: what is in the file, and the classes that were read of it."""
        self._rows += 1
        for name in classes:
            if (seen := self.classes.get(name)) is None:
                self.classes[name] = Seen(1, f"{path}: {place}")
            else:
                seen.count += 1
        for each in value if isinstance(value, list) else [value]:
            (self._numbers if isinstance(each, int) else self._names).add(str(each))
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
        yield from no_labels(asked, NO_LABEL, self._rows, "labels")
        yield from spelt_twice(self.classes, allowed, "classes")
        names = {name for name in self._names if name not in allowed and not name.lstrip("-").isdigit()}
        if names and self._numbers - set(allowed):
            yield (
                f"data: some labels are numbers ({listed(self.classes, self._numbers)}) and some are names "
                f"({listed(self.classes, names)}). Write all of them in one way{or_allow(sorted(self._numbers))}"
            )


def no_labels(seen: Mapping[str, Seen], words: Collection[str], of: int, what: str) -> Iterator[str]:
    for name, each in sorted(seen.items()):
        word = " ".join(name.casefold().replace("_", " ").split())
        if word in words:
            yield no_label(name, each, of, what)


def no_label(name: str, seen: Seen, of: int, what: str) -> str:
    """The error for a name, or a number, that stands for none."""
    return (
        f"data: {quoted(name)} in {seen.count:,} of {of:,} {what}, first {seen.first}, often stands for a row without "
        f"a label. Use null there{or_allow([name])}"
    )


def spelt_twice(seen: Mapping[str, Seen], allowed: Collection[str], what: str) -> Iterator[str]:
    """An error for names that differ in case, white space or the form of a character alone."""
    alike: dict[str, list[str]] = {}
    for name in seen:
        plain = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        alike.setdefault(plain, []).append(name)
    for names in alike.values():
        if len(names) > 1 and len(set(names) - set(allowed)) > 1:
            yield (
                f"data: {what} that differ in case or white space alone: {listed(seen, names)}. Spell them in one "
                f"way{or_allow(names)}"
            )


def listed(seen: Mapping[str, Seen], names: Iterable[str]) -> str:
    """Some names, the most frequent first, with counts and places."""
    order = sorted((name for name in names if name in seen), key=lambda name: (-seen[name].count, name))
    parts = [f"{quoted(name)} ({seen[name].count:,}, first {seen[name].first})" for name in order[:SHOWN]]
    return ", ".join(parts) + (f" and {len(order) - SHOWN} more" if len(order) > SHOWN else "")


def quoted(name: str) -> str:
    """A name in quotes, so that white space and case are seen."""
    return json.dumps(name, ensure_ascii=False)


def or_allow(names: Collection[str]) -> str:
    shown = ", ".join(map(quoted, list(names)[:SHOWN])) + (", ..." if len(names) > SHOWN else "")
    return f", or say that they are meant: data.allow_labels: [{shown}]."
