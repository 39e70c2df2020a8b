"""Fields of rows that test rows are told apart by, beside the rows: what a model reads does not depend on them."""

import json
from array import array
from collections.abc import Collection, Mapping
from typing import Any

from potstill.data.meanings import is_empty

LONGEST_VALUE = 200
"""Characters of a value, beyond which two are taken for one."""


class KeptFields:
    """The values of some fields of the rows of a file as texts, of which memory holds a number each."""

    def __init__(self, names: Collection[str]) -> None:
        self._numbers = {name: array("i") for name in names}
        self._values: dict[str, dict[str | None, int]] = {name: {} for name in names}

    def add(self, record: Mapping[str, Any]) -> None:
        """Keep those of the next row."""
        for name, known in self._values.items():
            self._numbers[name].append(known.setdefault(_as_text(record.get(name)), len(known)))

    def of(self, name: str, rows: Collection[int]) -> list[str | None]:
        """The value of a field in each of these rows; None where it says nothing."""
        values = list(self._values[name])
        return [values[self._numbers[name][row]] for row in rows]


def _as_text(value: Any) -> str | None:
    if is_empty(value):
        return None
    if isinstance(value, float) and value.is_integer():
        # As pandas writes whole numbers beside missing ones.
        value = int(value)
    text = str(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
    return text[:LONGEST_VALUE]
