"""Spans of characters, such as entities, as tags of words; how a text is split into words.

A word is a run of letters and digits with the marks of its letters; every other sign that is no white space is a word
of its own, and so is each character of a script that writes words without spaces. So spans end where words do as often
as can be, and the words do not depend on the spans, which nobody has of a new text.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from potstill.data.near_copies import SPACELESS, marks_and_joiners
from potstill.data.places import Place, as_objects
from potstill.data.tag_schemes import OUTSIDE, PREFIXES

Scheme = Literal["iob2", "iobes", "bilou", "io"]
"""How the tags of a span are written."""
_PREFIXES: Mapping[Scheme, tuple[str, str, str, str]] = {
    "iob2": ("B", "I", "I", "B"),
    "iobes": ("B", "I", "E", "S"),
    "bilou": ("B", "I", "L", "U"),
    "io": ("I", "I", "I", "I"),
}
"""The prefix of its first word, of those within, of the last, and of a word that is all of it."""
STARTS, ENDS, LABELS = ("start", "start_offset", "begin"), ("end", "end_offset"), ("label", "tag", "type")
"""What data sets and annotation tools call the parts of a span."""
_COUNTED = "Offsets count characters from 0, not bytes or UTF-16 units, and the end is the first one after the span"
_SHOWN = 40


@dataclass(frozen=True)
class Span:
    """A part of a text and what it is."""

    start: int
    end: int
    label: str
    where: str
    """Its place in the row, for errors."""

    def named(self, text: str) -> str:
        """For an error: where it stands, what it holds, and its label."""
        held = text[max(0, self.start) : self.end]
        return f"{self.start} to {self.end} ({held[:_SHOWN]!r}, {self.label})"


@cache
def _word() -> re.Pattern[str]:
    def those_in(ranges: Iterable[tuple[int, int]]) -> str:
        return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)

    joined, spaceless = those_in(marks_and_joiners()), those_in(SPACELESS)
    letter = rf"[^\W_{spaceless}]"
    return re.compile(rf"{letter}+(?:[{joined}]+{letter}*)*|\S[{joined}]*")


def words_of(text: str) -> list[tuple[int, int]]:
    """Where each word of a text begins and ends."""
    return [match.span() for match in _word().finditer(text)]


def read_spans(at: Place, column: str, value: Any) -> list[Span]:
    """The spans of a row: objects of start, end and label, or lists of these three.

    Raises:
        DataError: a list of anything else, or a label that is none.
    """
    given = as_objects(at.parsed(column, value))
    if not isinstance(given, list):
        raise at.error(f' "{column}": expected a list of spans, found {type(given).__name__}. {_EXAMPLE}')
    return [_span(at, f"{column}[{number}]", span) for number, span in enumerate(given)]


_EXAMPLE = 'Write it as [{"start": 0, "end": 3, "label": "PER"}], and [] where a text has none'


def are_spans(values: Iterable[Any]) -> bool:
    """Whether values look like those of a column of spans, at least one of which is in it."""
    listed = [as_objects(value) for value in values]
    items = [item for each in listed if isinstance(each, list) for item in each]
    return bool(items) and all(isinstance(each, list) for each in listed) and all(map(is_span, items))


def is_span(item: Any) -> bool:
    """Whether an item of a list looks like a span: offsets and a label."""
    if isinstance(item, dict):
        return all(any(item.get(name) is not None for name in names) for names in (STARTS, ENDS, LABELS))
    return isinstance(item, list) and len(item) == 3 and list(map(type, item)) == [int, int, str]


def _span(at: Place, where: str, span: Any) -> Span:
    if isinstance(span, list | tuple) and len(span) == 3:
        span = dict(zip(("start", "end", "label"), span, strict=True))
    if not isinstance(span, dict):
        raise at.error(f' "{where}": expected a span, found {type(span).__name__}. {_EXAMPLE}')
    start, end = (_offset(at, where, _part(at, where, span, names)) for names in (STARTS, ENDS))
    label = _part(at, where, span, LABELS)
    if not isinstance(label, str):
        raise at.error(f' "{where}": its label is of type {type(label).__name__}. Write labels by their names')
    label = at.filled(f"{where}.label", label, "name what it is").strip()
    if label == OUTSIDE or (label[:1] in PREFIXES and label[1:2] == "-"):
        raise at.error(f' "{where}": the label {label!r} is a tag of a word. Name the kind alone, such as PER')
    return Span(start, end, label, where)


def _part(at: Place, where: str, span: Mapping[str, Any], names: Sequence[str]) -> Any:
    found = [name for name in names if span.get(name) is not None]
    if not found:
        raise at.error(f' "{where}": no {" or ".join(names)}; found {sorted(map(str, span))[:12]}. {_EXAMPLE}')
    if any(span[name] != span[found[0]] for name in found):
        raise at.error(f' "{where}": {" and ".join(found)} differ. Keep one')
    return span[found[0]]


def _offset(at: Place, where: str, value: Any) -> int:
    if isinstance(value, float) and value.is_integer():
        # As pandas writes it beside missing ones.
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise at.error(f' "{where}": an offset of type {type(value).__name__}. {_COUNTED}')
    return value


def require_texts(at: Place, value: Any, spans: Sequence[Span], text: str) -> None:
    """Compare what spans say that they hold, where they do, with what they hold.

    Raises:
        DataError: names the first that differs.
    """
    for given, span in zip(as_objects(at.parsed("", value)), spans, strict=True):
        said = given.get("text") if isinstance(given, dict) else None
        if isinstance(said, str) and said.strip() != text[max(0, span.start) : span.end].strip():
            raise at.error(f' "{span.where}": {span.named(text)} is to hold {said[:_SHOWN]!r}. {_COUNTED}')


def tagged_words(at: Place, text: str, spans: Sequence[Span], scheme: Scheme) -> tuple[list[str], list[str]]:
    """The words of a text and their tags.

    Raises:
        DataError: a span that is not within the text, overlaps another, cuts a word or holds none.
    """
    words = words_of(text)
    tags = [OUTSIDE] * len(words)
    before: Span | None = None
    for span in sorted(spans, key=lambda span: (span.start, span.end)):
        if not 0 <= span.start < span.end <= len(text):
            raise at.error(
                f' "{span.where}": {span.named(text)} does not lie within the text, which has {len(text)} characters. '
                f"{_COUNTED}"
            )
        if before is not None and span.start < before.end:
            raise at.error(
                f' "{span.where}": {span.named(text)} overlaps {before.named(text)}, and a word has one tag. Keep '
                "one of the two, or drop the row"
            )
        for number, prefix in zip(held := _held(at, text, words, span), _prefixes(scheme, len(held)), strict=True):
            tags[number] = f"{prefix}-{span.label}"
        before = span
    return [text[start:end] for start, end in words], tags


def _held(at: Place, text: str, words: Sequence[tuple[int, int]], span: Span) -> list[int]:
    """The numbers of the words that a span holds."""
    touched = [number for number, (start, end) in enumerate(words) if start < span.end and end > span.start]
    if not touched:
        raise at.error(
            f' "{span.where}": {span.named(text)} holds no word. Drop the span, or mend its offsets. {_COUNTED}'
        )
    for number in (touched[0], touched[-1]):
        start, end = words[number]
        if start < span.start or end > span.end:
            raise at.error(
                f' "{span.where}": {span.named(text)} cuts the word {text[start:end][:_SHOWN]!r} at {start} to {end}, '
                f"and tags are of whole words. Mend its offsets, or drop the row. {_COUNTED}"
            )
    return touched


def _prefixes(scheme: Scheme, count: int) -> Iterator[str]:
    first, within, last, alone = _PREFIXES[scheme]
    if count == 1:
        yield alone
        return
    yield first
    yield from [within] * (count - 2)
    yield last
