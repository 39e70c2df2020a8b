"""The values of tables, which have texts alone: what a text stands for is known where it is read."""

import ast
import warnings
from typing import Any

from potstill.data.files import json_value


class Cell(str):
    """A value as it stands in a file that has no types. As a text, an id or the name of a class it is what is written,
    such as `007` or `1.0`."""

    __slots__ = ()

    def number(self) -> float | None:
        """The number that is written, or None."""
        try:
            # Python reads 1_000 as a number too, and no other tool writes one so.
            return None if "_" in self else float(self)
        except ValueError:
            return None

    def items(self) -> list[Any] | None:
        """The list that is written, as JSON or as Python writes it, or None."""
        text = self.strip()
        if text[:1] != "[" or text[-1:] != "]":
            return None
        try:
            value = json_value(text)
        except (RecursionError, ValueError):
            value = _literal(text)
        return value if isinstance(value, list) else None


# Errors name the types of values.
Cell.__name__ = "str"


def _literal(text: str) -> Any:
    """What `str` of a list was, as pandas writes it; None for anything else, such as an array of NumPy, in which no
    comma stands between two texts."""
    try:
        with warnings.catch_warnings():
            # Of escapes that Python would not have written.
            warnings.simplefilter("ignore")
            value = ast.literal_eval(text)
    except (MemoryError, RecursionError, SyntaxError, ValueError):
        return None
    return value if repr(value) == text else None


def as_number(value: Any) -> Any:
    """A cell as its number, where it has one; any other value as it is."""
    number = value.number() if isinstance(value, Cell) else None
    return value if number is None else number


def as_list(value: Any) -> Any:
    """A cell as its list, where it has one; any other value as it is."""
    found = value.items() if isinstance(value, Cell) else None
    return value if found is None else found
