"""Pairs of a source and its target, for models that read the one and write the other, and their reading from files."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from potstill.data.columns import Columns
from potstill.data.fields import RESPONSES, Form
from potstill.data.meanings import BESIDE_SOURCE, IN_PAIRS, PART
from potstill.data.on_disk import OnDisk
from potstill.data.reading import Reading
from potstill.data.rows import domain_in, id_in, read_each, string_in, text_id, within
from potstill.errors import DataError

SETTINGS = "Set data.columns.source and data.columns.target to the columns that hold the texts."


@dataclass(frozen=True, slots=True)
class Pair:
    """A text and what is to be made of it; without a target, the teacher writes it."""

    id: str
    source: str
    target: str | None
    domain: str | None = None

    @property
    def text(self) -> str:
        """The source: two rows that ask the same are duplicates, whatever they say is right."""
        return self.source

    @property
    def own_text(self) -> str:
        return self.text

    @property
    def label(self) -> str | None:
        return self.target

    @property
    def labelled(self) -> bool:
        return self.target is not None

    @property
    def content(self) -> list[Any]:
        # Without a domain as it was before there were any, so that a run goes on.
        return [self.id, self.source, self.target, *([] if self.domain is None else [self.domain])]

    @classmethod
    def of(cls, content: list[Any]) -> "Pair":
        return cls(*content)


def read_pairs(path: Path, columns: Columns, *, how: Reading | None = None) -> OnDisk[Pair]:
    """All pairs of a file, in its order. Blank lines count as nothing.

    Raises:
        DataError: the file, its bad rows by line or row number, or a field whose meaning would be lost.
    """
    form = Form(
        reads=frozenset({columns.id, columns.source, columns.target, columns.domain}),
        id=columns.id,
        text=columns.source,
        label=columns.target,
        setting="target",
        meanings=IN_PAIRS,
        labels=RESPONSES,
        beside=BESIDE_SOURCE,
        second=PART,
        blank=columns.source,
    )
    return read_each(
        path,
        lambda file, place, record: _pair(file, place, record, columns),
        lambda pair: json.dumps([pair.source, pair.target]),
        form=form,
        how=how,
    )


def _pair(path: Path, place: str, record: Any, columns: Columns) -> Pair:
    if not isinstance(record, dict):
        kind = type(record).__name__
        raise DataError(f"{path}: {place}: expected an object with {columns.source!r}, found {kind}.")
    if columns.source not in record:
        raise DataError(
            f'{path}: {place} has no "{columns.source}"; found {sorted(map(str, record))[:12]}. '
            f"{within(record, columns.source, columns.target) or SETTINGS}"
        )
    # Blank sources are dropped and counted with the duplicates, as blank rows of other tasks are.
    source = string_in(path, place, columns.source, record[columns.source])
    target = record.get(columns.target)
    if target is not None:
        target = string_in(path, place, columns.target, target)
        if not target.strip():
            raise DataError(f'{path}: {place} "{columns.target}": empty; use null where the teacher is to write it.')
    identity = id_in(path, place, columns.id, record.get(columns.id))
    domain = domain_in(path, place, columns.domain, record.get(columns.domain))
    return Pair(text_id(json.dumps([source, target])) if identity is None else identity, source, target, domain)
