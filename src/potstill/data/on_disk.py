"""Rows and token ids in temporary files, of which memory holds a few bytes a row.

The files have no name and are gone with the process; they lie where `tempfile` puts them, which TMPDIR decides.
"""

import errno
import json
import mmap
import tempfile
from abc import abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar, overload

import numpy as np
import numpy.typing as npt

from potstill.data.kept_fields import KeptFields

Item = TypeVar("Item")
Numbers = npt.NDArray[np.int64]


class Pieces:
    """Byte strings one after the other in a file that is mapped."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        ends, end = array("q", [0]), 0
        try:
            with tempfile.TemporaryFile() as file:
                for piece in pieces:
                    file.write(piece)
                    end += len(piece)
                    ends.append(end)
                file.flush()
                # A mapping has a descriptor of its own. One of nothing cannot be made.
                self._mapped = mmap.mmap(file.fileno(), end, access=mmap.ACCESS_READ) if end else b""
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            # A file without a name would not say which disk is full.
            raise OSError(error.errno, error.strerror, f"{tempfile.gettempdir()} (TMPDIR)") from None
        self._ends = np.frombuffer(ends, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[memoryview]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, number: int) -> memoryview:
        return memoryview(self._mapped)[self._ends[number] : self._ends[number + 1]]


class Lazy(Sequence[Item], Generic[Item]):
    """Items that are made each time that they are asked for."""

    @abstractmethod
    def _at(self, number: int) -> Item:
        """The item with this number, which is not negative and within the length."""

    @overload
    def __getitem__(self, place: int) -> Item: ...
    @overload
    def __getitem__(self, place: slice) -> list[Item]: ...
    def __getitem__(self, place: int | slice) -> Item | list[Item]:
        if isinstance(place, slice):
            return [self._at(number) for number in range(*place.indices(len(self)))]
        return self._at(range(len(self))[place])


class OnDisk(Sequence[Item], Generic[Item]):
    """Items that are read from a file each time; `where` gives some of them without a copy."""

    def __init__(
        self,
        pieces: Pieces,
        make: Callable[[memoryview], Item],
        numbers: Numbers | None = None,
        place: Callable[[int], str] | None = None,
        kept: KeptFields | None = None,
    ) -> None:
        self._pieces = pieces
        self._make = make
        self._numbers = np.arange(len(pieces), dtype=np.int64) if numbers is None else numbers
        self._place = place
        self._kept = kept

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, place: int) -> Item: ...
    @overload
    def __getitem__(self, place: slice) -> "OnDisk[Item]": ...
    def __getitem__(self, place: int | slice) -> "Item | OnDisk[Item]":
        if isinstance(place, slice):
            return OnDisk(self._pieces, self._make, self._numbers[place], self._place, self._kept)
        return self._make(self._pieces[int(self._numbers[place])])

    def __iter__(self) -> Iterator[Item]:
        return (self._make(self._pieces[int(number)]) for number in self._numbers)

    def where(self, kept: npt.NDArray[np.bool_]) -> "OnDisk[Item]":
        return OnDisk(self._pieces, self._make, self._numbers[kept], self._place, self._kept)

    def place(self, number: int) -> str | None:
        """File and line of an item, where they are known."""
        return None if self._place is None else self._place(int(self._numbers[number]))

    def values_of(self, field: str) -> list[str | None]:
        """The value of a field that was kept in each item; None where it says nothing."""
        assert self._kept is not None, f"{field} was not kept"
        return self._kept.of(field, self._numbers.tolist())


def place_of(rows: object, number: int) -> str | None:
    """File and line of one of these rows, where they come from a file."""
    return rows.place(number) if isinstance(rows, OnDisk) else None


def row_named(rows: Sequence[Any], number: int) -> str:
    """One of these rows, which have ids, for an error: file and line where they are known, and its id."""
    identity, place = f'"{rows[number].id}"', place_of(rows, number)
    return identity if place is None else f"{identity} ({place})"


def rows_on_disk(
    rows: Iterable[Any], place: Callable[[int], str] | None = None, kept: KeptFields | None = None
) -> OnDisk[Any]:
    """Rows, whose classes must have `of`, the inverse of their `content`; `place` tells where each comes from, and
    `kept` what lies beside it."""
    classes: list[type] = []

    def written(row: Any) -> bytes:
        if type(row) not in classes:
            classes.append(type(row))
        return json.dumps([classes.index(type(row)), row.content], ensure_ascii=False).encode()

    def read(piece: memoryview) -> Any:
        number, content = json.loads(bytes(piece))
        return classes[number].of(content)

    return OnDisk(Pieces(map(written, rows)), read, place=place, kept=kept)


class Ragged(Sequence[tuple[int, ...]]):
    """Lists of numbers, as two arrays."""

    def __init__(self, lists: Iterable[Iterable[int]]) -> None:
        flat, ends = array("q"), array("q", [0])
        for each in lists:
            flat.extend(each)
            ends.append(len(flat))
        self._flat, self._ends = np.frombuffer(flat, dtype=np.int64), np.frombuffer(ends, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, place: int) -> tuple[int, ...]: ...
    @overload
    def __getitem__(self, place: slice) -> "Ragged": ...
    def __getitem__(self, place: int | slice) -> "tuple[int, ...] | Ragged":
        if isinstance(place, slice):
            return Ragged(self[number] for number in range(*place.indices(len(self))))
        place = range(len(self))[place]
        return tuple(self._flat[self._ends[place] : self._ends[place + 1]].tolist())

    def sums_of(self, values: npt.NDArray[np.integer]) -> Sequence[int]:
        """For each list the sum of `values` at its numbers."""
        running = np.concatenate([[0], np.cumsum(values[self._flat], dtype=np.int64)])
        return array("q", np.diff(running[self._ends]).tobytes())
