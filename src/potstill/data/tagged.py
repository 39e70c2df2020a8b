"""Rows of words and their tags, for token classification, by the conventions of Hugging Face datasets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from potstill.data.cells import as_list
from potstill.data.columns import Columns
from potstill.data.fields import TAGS, Form
from potstill.data.meanings import IN_TAGS
from potstill.data.on_disk import OnDisk
from potstill.data.places import Place
from potstill.data.reading import Reading
from potstill.data.rows import domain_in, id_in, read_each, string_in, text_id
from potstill.data.sources import first_record
from potstill.data.spans import Scheme, read_spans, require_texts, tagged_words
from potstill.errors import DataError

ENTITIES = "entities"
"""What many data sets call spans."""


@dataclass(frozen=True, slots=True)
class TaggedRow:
    """A document as words, each with its tag where somebody tagged it."""

    id: str
    tokens: tuple[str, ...]
    tags: tuple[str, ...] | None
    domain: str | None = None

    @property
    def text(self) -> str:
        return " ".join(self.tokens)

    @property
    def own_text(self) -> str:
        return self.text

    @property
    def label(self) -> tuple[str, ...] | None:
        return self.tags

    @property
    def labelled(self) -> bool:
        return self.tags is not None

    @property
    def classes(self) -> Sequence[str]:
        """The tags that somebody gave it."""
        return self.tags or ()

    @property
    def content(self) -> list[Any]:
        return [self.id, self.tokens, self.tags, self.domain]

    @classmethod
    def of(cls, content: list[Any]) -> "TaggedRow":
        identity, tokens, tags, domain = content
        return cls(identity, tuple(tokens), None if tags is None else tuple(tags), domain)


class _Fixes(NamedTuple):
    """What is to be done about what is no list of texts."""

    of_other: str
    of_null: str
    of_number: str


WORDS = _Fixes(
    'Write a list of words: ["Ann", "came"].',
    "Leave it out, with its tag.",
    "Write words as text, in quotes.",
)
OF_WORDS = _Fixes(
    'Write a list with a tag for each word: ["B-PER", "O"].',
    "Write O, or null in place of the list for a row without tags.",
    'Write tags by their names, such as "B-PER".',
)


def read_tagged(
    path: Path, columns: Columns, *, how: Reading | None = None, scheme: Scheme = "iob2"
) -> OnDisk[TaggedRow]:
    """All rows of a file, in its order: words with their tags, or texts whose spans become tags of this scheme.

    Raises:
        DataError: the file, its bad rows by line or row number, or a field whose meaning would be lost.
    """
    how = how or Reading()
    found = first_record(path, tagged=(columns.tokens, columns.tags))
    first = {name: value for name, value in found.items() if name not in how.ignore}

    def row_of(path: Path, place: str, record: Any) -> TaggedRow:
        if isinstance(record, dict) and _has_spans(record, columns):
            row = _row_of_spans(Place(path, place), record, columns, scheme)
        else:
            row = _row(path, place, record, columns)
        how.tags.add(path, place, row.tags or ())
        return row

    of_words, of_spans = (columns.tokens, columns.tags), (columns.text, _column_of_spans(first, columns))
    begins_with_spans = _has_spans(first, columns)
    text, label = of_spans if begins_with_spans else of_words
    form = Form(
        reads=frozenset({columns.id, *of_words, *of_spans, ENTITIES, columns.domain}),
        id=columns.id,
        text=text,
        label=label,
        setting="spans" if begins_with_spans else "tags",
        meanings=IN_TAGS,
        labels=TAGS,
        blank=columns.text,
        reads_of=lambda record: _read_of(record, columns),
    )
    return read_each(path, row_of, lambda row: row.text, form=form, how=how)


def _has_spans(record: Mapping[str, Any], columns: Columns) -> bool:
    """Whether a row is a text with spans, or one without any, in place of words."""
    return record.get(columns.tokens) is None and record.get(columns.text) is not None


def _column_of_spans(record: Mapping[str, Any], columns: Columns) -> str:
    """That of a row, in whose file others may have the other name."""
    other = columns.spans == "spans" and record.get("spans") is None and ENTITIES in record
    return ENTITIES if other else columns.spans


def _read_of(record: Mapping[str, Any], columns: Columns) -> frozenset[str]:
    """The columns that are read of a row: of words, or of a text with spans."""
    if _has_spans(record, columns):
        return frozenset({columns.id, columns.domain, columns.text, _column_of_spans(record, columns)})
    return frozenset({columns.id, columns.domain, columns.tokens, columns.tags})


def _row_of_spans(at: Place, record: Mapping[str, Any], columns: Columns, scheme: Scheme) -> TaggedRow:
    column = _column_of_spans(record, columns)
    text, value = at.text(columns.text, record[columns.text]), record.get(column)
    spans = [] if value is None else read_spans(at, column, value)
    if value is not None:
        require_texts(at, value, spans, text)
    tokens, tags = tagged_words(at, text, spans, scheme)
    identity = id_in(at.path, at.place, columns.id, record.get(columns.id))
    domain = domain_in(at.path, at.place, columns.domain, record.get(columns.domain))
    own = text_id(" ".join(tokens)) if identity is None else identity
    return TaggedRow(own, tuple(tokens), None if value is None else tuple(tags), domain)


def _row(path: Path, place: str, record: Any, columns: Columns) -> TaggedRow:
    if not isinstance(record, dict) or columns.tokens not in record:
        found = sorted(map(str, record))[:12] if isinstance(record, dict) else type(record).__name__
        raise DataError(f'{path}: {place} has no "{columns.tokens}"; found {found}. {_how_to_write(record)}')
    tokens = _strings(path, place, columns.tokens, record[columns.tokens], WORDS)
    for number, token in enumerate(tokens):
        if len(token.split()) != 1:
            raise DataError(
                f'{path}: {place} "{columns.tokens}": word {number} is {token!r}; a word is not empty and holds no '
                "white space. Split it, or leave it out with its tag."
            )
    tags = record.get(columns.tags)
    if tags is not None:
        tags = _strings(path, place, columns.tags, tags, OF_WORDS)
        if len(tags) != len(tokens):
            raise DataError(
                f"{path}: {place}: {len(tokens)} words and {len(tags)} tags; each word has one. Use null in place of "
                "the list for a row without tags."
            )
        if "" in tags:
            raise DataError(f'{path}: {place} "{columns.tags}": word {tags.index("")} has an empty tag; write O.')
    identity = id_in(path, place, columns.id, record.get(columns.id))
    domain = domain_in(path, place, columns.domain, record.get(columns.domain))
    return TaggedRow(text_id(" ".join(tokens)) if identity is None else identity, tokens, tags, domain)


def _how_to_write(record: Any) -> str:
    if isinstance(record, dict) and any(isinstance(each, str) for each in _first_items(record)):
        return "Set data.columns.tokens to the column that holds the words."
    return (
        'Write words and tags as lists: {"tokens": ["Ann", "came"], "tags": ["B-PER", "O"]}; or a text with spans: '
        '{"text": "Ann came", "spans": [{"start": 0, "end": 3, "label": "PER"}]}.'
    )


def _first_items(record: dict[str, Any]) -> list[Any]:
    return [value[0] for value in record.values() if isinstance(value, list) and value]


def _strings(path: Path, place: str, column: str, value: Any, fixes: _Fixes) -> tuple[str, ...]:
    value = as_list(value)
    if not isinstance(value, list | tuple):
        raise DataError(f'{path}: {place} "{column}": expected a list, found {type(value).__name__}. {fixes.of_other}')
    if None in value:
        raise DataError(
            f'{path}: {place} "{column}": expected text, found NoneType at word {value.index(None)}. {fixes.of_null}'
        )
    if numbers := [each for each in value if isinstance(each, int | float)]:
        raise DataError(f'{path}: {place} "{column}": expected text, found the number {numbers[0]}. {fixes.of_number}')
    return tuple(string_in(path, place, column, each) for each in value)
