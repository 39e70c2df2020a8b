"""Names of rows as numbers of fixed size, so that an index over millions of them fits in memory."""

from array import array
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

Halves = npt.NDArray[np.uint64]


class Keys:
    """128 bits of a hash for each text that was added, in order. Two texts share one about never."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._halves = array("Q")
        for text in texts:
            self.add(text)

    def add(self, text: str) -> None:
        self._halves.frombytes(blake2b(text.encode(), digest_size=16).digest())

    def where(self, chosen: npt.NDArray[Any]) -> "Keys":
        """Those that a mask or numbers choose."""
        return Keys._of(self._both()[chosen])

    def __add__(self, other: "Keys") -> "Keys":
        return Keys._of(np.concatenate([self._both(), other._both()]))

    @classmethod
    def _of(cls, both: Halves) -> "Keys":
        keys = cls()
        keys._halves.frombytes(np.ascontiguousarray(both).tobytes())
        return keys

    def _both(self) -> Halves:
        return np.frombuffer(self._halves, dtype=np.uint64).reshape(-1, 2)

    def halves(self) -> tuple[Halves, Halves]:
        both = self._both()
        return both[:, 0], both[:, 1]


class Index:
    """Finds the number under which a text was added, and those that were added again."""

    def __init__(self, keys: Keys) -> None:
        first, second = keys.halves()
        # Stable, so that of equal ones the first comes first.
        self._order = np.lexsort((second, first))
        self._first, self._second = first[self._order], second[self._order]

    def find(self, text: str) -> int | None:
        first, second = (half[0] for half in Keys([text]).halves())
        start = int(np.searchsorted(self._first, first))
        for place in range(start, len(self._first)):
            if self._first[place] != first:
                return None
            if self._second[place] == second:
                return int(self._order[place])
        return None

    def first_with(self) -> npt.NDArray[np.int64]:
        """For each number the first number with the same text: its own, if there is none before it."""
        same = (self._first[1:] == self._first[:-1]) & (self._second[1:] == self._second[:-1])
        starts = np.concatenate([[True], ~same]) if len(self._order) else np.zeros(0, dtype=np.bool_)
        leaders = self._order[np.flatnonzero(starts)]
        found = np.empty(len(self._order), dtype=np.int64)
        found[self._order] = leaders[np.cumsum(starts) - 1]
        return found

    def first_repeated(self) -> int | None:
        """The least number whose text was added before."""
        found = self.first_with()
        again = np.flatnonzero(found != np.arange(len(found)))
        return int(again[0]) if len(again) else None
