"""Rows of texts of another kind, on which models are judged beside the test rows."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from potstill.data.prepare import Split
from potstill.data.reading import Reading
from potstill.data.rows import DataRow, Row
from potstill.data.sources import located
from potstill.data.tagged import TaggedRow
from potstill.errors import DataError
from potstill.recipe import Recipe

KEY = "evaluate.out_of_domain"


def read_out_of_domain(recipe: Recipe, base: Path, splits: Mapping[str, Split]) -> list[Any]:
    """The rows, each text once, of classifiers without their labels; none where the recipe names no file.

    Raises:
        DataError: the file or its rows cannot be read, one text is in the data too, rows are pairs where those of the
            data are not, or of language models one has no response.
    """
    source = recipe.evaluate.out_of_domain
    if source is None:
        return []
    path, data = located(base, source), recipe.data
    how = Reading(frozenset(data.ignore), data.on_error)
    try:
        read = recipe.task.read(path, data.columns, how=how)
    except DataError as error:
        raise DataError(f"{KEY}: {error}") from None
    rows = list({row.text: _as_measured(row, path) for row in _rows(read) if row.text.strip()}.values())
    if not rows:
        raise DataError(f"{KEY}: {path} holds blank texts alone. Name a file of texts of another kind than the data.")
    paired = _paired(splits["test"].rows[0])
    if any(_paired(row) != paired for row in rows):
        have, found = ("two texts", "one") if paired else ("one text", "two")
        raise DataError(f"{KEY}: rows of data.test have {have}, and some of {path} {found}. Write them in one form.")
    known = {row.text for row in rows}
    for name, split in splits.items():
        if (row := next((row for row in split.rows if row.text in known), None)) is not None:
            raise DataError(
                f"{KEY}: the text of row {row.id} of data.{name} is in {path} too, so it is no other kind of text. "
                "Name a file without rows of the data."
            )
    return rows


def _rows(read: Iterable[object]) -> Iterator[DataRow]:
    for row in read:
        assert isinstance(row, DataRow)
        yield row


def _as_measured(row: DataRow, path: Path) -> DataRow:
    """Of what is classified or tagged the label is not read; of what is written the response is what is foretold."""
    if isinstance(row, Row):
        return replace(row, label=None)
    if isinstance(row, TaggedRow):
        return replace(row, tags=None)
    if not row.labelled:
        raise DataError(
            f'{KEY}: row "{row.id}" of {path} has no response, and how well models foretell it is what is measured. '
            "Give each row one, or leave it out."
        )
    return row


def _paired(row: object) -> bool:
    return isinstance(row, Row) and row.second_at is not None
