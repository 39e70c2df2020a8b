"""Labels that are numbers: which stand for no label, and which differ by less than float32 can tell."""

import math
from array import array
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from potstill.data.cells import Cell, as_number
from potstill.data.label_checks import Seen, no_label, quoted
from potstill.errors import DataError

NO_NUMBER = frozenset({-1.0, -99.0, -100.0, -999.0, -9999.0, 9999.0})
"""Numbers that stand for a row without a label: -1 in GLUE's test sets, -100 in losses of torch, runs of nines in
surveys and measurements."""
LEAST_SHARE = 0.01
"""Of the rows. What stands for no label does so again and again; a value that is rare and far away is an outlier."""
LOST = 0.01
"""Of the standard deviation of the labels: the rounding error over which an error of that size in every prediction
would be taken for none."""
LEAST = float(np.finfo(np.float32).tiny)
MOST = float(np.finfo(np.float32).max)
LONGEST_SHOWN = 40
"""Characters of a value that an error shows."""


def number_in(path: Path, place: str, column: str, value: Any) -> float:
    """A number.

    Raises:
        DataError: it is none, or not finite.
    """
    value = as_number(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        hint = " Write it without quotes." if isinstance(value, str) and _is_number(value) else ""
        if isinstance(value, Cell):
            hint = f" {quoted(value[:LONGEST_SHOWN])} is none."
        raise DataError(f'{path}: {place} "{column}": expected a number, found {type(value).__name__}.{hint}')
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise DataError(f'{path}: {place} "{column}": expected a finite number; use null for a row without a label.')
    if abs(number) > MOST:
        raise DataError(
            f'{path}: {place} "{column}": {number:.3g} is too large for float32, in which models answer; expected at '
            f"most {MOST:.2g}. Divide all labels by a constant, or take their logarithms."
        )
    return number


def _is_number(value: str) -> bool:
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False


class NumberTally:
    """The numbers of rows, over all files."""

    def __init__(self) -> None:
        self._values = array("d")
        self._first: dict[float, str] = {}

    def add(self, path: Path, place: str, value: float) -> None:
        """Count the label of a row."""
        if not self._values or value in NO_NUMBER:
            self._first.setdefault(value, f"{path}: {place}")
        self._values.append(value)

    def problems(self, allowed: Collection[str]) -> Iterator[str]:
        """An error for each question that the recipe does not answer, and for labels that cannot be told apart."""
        values = np.frombuffer(self._values)
        if not len(values):
            return
        numbers, counts = np.unique(values, return_counts=True)
        meant = set(filter(None, map(_number, allowed)))
        for number in sorted(NO_NUMBER & self._first.keys() - meant):
            count = int(counts[numbers == number][0])
            if count >= max(2, LEAST_SHARE * len(values)) and _lies_apart(number, numbers[numbers != number]):
                yield no_label(f"{number:g}", Seen(count, self._first[number]), len(values), "labels")
        mean, deviation = float(values.mean()), float(values.std())
        error = float(np.sqrt(np.mean((values - values.astype(np.float32)) ** 2)))
        if error > LOST * deviation > 0:
            yield (
                f"data: the labels differ by {deviation:.3g} (standard deviation) around {mean:.10g}, first "
                f"{next(iter(self._first.values()))}, and float32, in which models answer, rounds numbers of that size "
                f"by {error:.3g}. Subtract a constant near {mean:.10g} from all labels."
            )
        elif 0 < deviation < LEAST:
            yield (
                f"data: the labels differ by {deviation:.3g} (standard deviation), first "
                f"{next(iter(self._first.values()))}, and float32, in which models answer, knows nothing below "
                f"{LEAST:.2g} in full. Multiply all labels by a constant."
            )


def _number(name: str) -> float | None:
    try:
        return float(name)
    except ValueError:
        return None


def _lies_apart(number: float, others: npt.NDArray[np.float64]) -> bool:
    """Whether a number is no part of the scale of the others, which are sorted: farther from them than they are from
    each other."""
    if len(others) < 2:
        return False
    low, high = float(others[0]), float(others[-1])
    step, gap = float(np.diff(others).max()), max(low - number, number - high)
    if number > high:
        return gap > max(step, high - low)
    if low < 0:
        # Negative numbers are of the scale.
        return gap > max(step, (high - low) / 2)
    # -1, 0, 1 is a scale, and -1, 0, 1, ..., 5 one to 5 with a -1 for none.
    return gap > step or (gap == step and high > -number)
