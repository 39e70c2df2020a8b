"""Where a row stands, and what is read of its values: the errors name file, line and column."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from potstill.data.files import RepeatedKey, json_value
from potstill.data.rows import string_in
from potstill.errors import DataError


@dataclass(frozen=True)
class Place:
    """Where a row stands, for the error."""

    path: Path
    place: str

    def error(self, problem: str) -> DataError:
        return DataError(f"{self.path}: {self.place}{problem}.")

    def text(self, where: str, value: Any) -> str:
        """A text.

        Raises:
            DataError: it is none.
        """
        return string_in(self.path, self.place, where, value)

    def filled(self, where: str, value: Any, fix: str) -> str:
        """A text that is not blank.

        Raises:
            DataError: it is none, or blank.
        """
        text = self.text(where, value)
        if not text.strip():
            raise self.error(f' "{where}": empty; {fix}')
        return text

    def parsed(self, where: str, value: Any) -> Any:
        """A value, of which a text is read as JSON; a blank text is none.

        Raises:
            DataError: a text that is no JSON.
        """
        if not isinstance(value, str):
            return value
        try:
            return json_value(value) if value.strip() else None
        except RepeatedKey as error:
            raise self.error(f' "{where}": an object in its text has the key "{error}" twice. Correct it') from None
        except (ValueError, RecursionError):
            # What str() makes of a list or an object has other quotes.
            how = " It looks like str() of a Python value: write json.dumps of it" if _is_repr(value) else " Correct it"
            raise self.error(f' "{where}": a text that is no JSON.{how}') from None

    def json(self, where: str, value: Any) -> str:
        """A value as a text of JSON.

        Raises:
            DataError: JSON does not have such a value, or it is not valid Unicode.
        """

        def refuse(inner: Any) -> None:
            kind = type(inner).__name__
            raise self.error(f' "{where}": a value of type {kind}, which JSON does not have. Write it as text')

        return self.text(where, json.dumps(value, ensure_ascii=False, default=refuse))


def without_nulls(value: Any) -> Any:
    """The value without what is null in its objects: Parquet gives every object every key."""
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value


def as_objects(value: Any) -> Any:
    """A list of objects for an object of lists of one length, as which `datasets` stores a sequence of objects; any
    other value as it is."""
    fields = {key: each for key, each in value.items() if each is not None} if isinstance(value, dict) else {}
    if not fields or not all(isinstance(each, list) for each in fields.values()):
        return value
    if len({len(each) for each in fields.values()}) > 1:
        return value
    return [dict(zip(fields, each, strict=True)) for each in zip(*fields.values(), strict=True)]


def _is_repr(text: str) -> bool:
    return text.lstrip()[:2] in ("{'", "['") or text.lstrip().startswith("[{'")
