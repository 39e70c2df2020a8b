"""Tokenised examples, of which memory holds a few bytes each and a file the rest."""

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Int32

from potstill.data.ids import Index, Keys
from potstill.data.on_disk import Lazy, Pieces

TokenIds = Int32[np.ndarray, "_"]
Prompt = TokenIds
"""What a model is shown before it writes."""


@dataclass(frozen=True, eq=False, slots=True)
class Tokenised:
    """Token ids; `trained` is true where a token is to be learnt, which the first never is: nothing predicts it."""

    id: str
    ids: Int32[np.ndarray, "tokens"]
    trained: Bool[np.ndarray, "tokens"]
    part: str = ""
    """The end of `id` that tells it from the other examples of its row, whose id is the rest."""


class TokenFile(Lazy[Tokenised]):
    """Examples in a temporary file, read each time that one is asked for."""

    def __init__(self, examples: Iterable[Tokenised]) -> None:
        lengths, trained, self._keys = array("i"), array("i"), Keys()
        self._parts = array("B")
        self.largest = -1
        """The largest token id of all; -1 without any."""

        def pieces() -> Iterator[bytes]:
            for example in examples:
                assert not example.trained[0], "no position predicts a first token"
                lengths.append(len(example.ids))
                self.largest = max(self.largest, int(example.ids.max(initial=-1)))
                trained.append(int(example.trained.sum()))
                self._keys.add(example.id)
                self._parts.append(len(example.part.encode()))
                yield example.ids.tobytes() + example.trained.tobytes() + example.id.encode()

        self._pieces = Pieces(pieces())
        self.lengths: npt.NDArray[np.int32] = np.frombuffer(lengths, dtype=np.int32)
        """Tokens of each example."""
        self.trained_counts: npt.NDArray[np.int32] = np.frombuffer(trained, dtype=np.int32)
        """Tokens to be learnt in each example."""

    def __len__(self) -> int:
        return len(self.lengths)

    def _at(self, number: int) -> Tokenised:
        piece, count = self._pieces[number], int(self.lengths[number])
        # Copies, since a piece begins anywhere.
        ids = np.frombuffer(piece, dtype=np.int32, count=count).copy()
        flags = np.frombuffer(piece, dtype=np.bool_, count=count, offset=4 * count).copy()
        name = bytes(piece[5 * count :])
        return Tokenised(name.decode(), ids, flags, name[len(name) - self._parts[number] :].decode())

    @property
    def names(self) -> Sequence[str]:
        """The id of each example."""
        return _Names(self, of_rows=False)

    @property
    def row_names(self) -> Sequence[str]:
        """The id of each example's row."""
        return _Names(self, of_rows=True)

    def name(self, number: int, *, of_row: bool = False) -> str:
        name = bytes(self._pieces[number][5 * int(self.lengths[number]) :])
        return name[: len(name) - (self._parts[number] if of_row else 0)].decode()

    @cached_property
    def digest(self) -> str:
        """sha256 over names, token ids and what of them is to be learnt, in their order."""
        digest = hashlib.sha256()
        for piece, part in zip(self._pieces, self._parts, strict=True):
            digest.update(f"{len(piece)} {part} ".encode())
            digest.update(piece)
        return digest.hexdigest()

    def first_repeated(self) -> int | None:
        """The first example whose id another had before it."""
        return Index(self._keys).first_repeated()


class _Names(Lazy[str]):
    def __init__(self, examples: TokenFile, *, of_rows: bool) -> None:
        self._examples = examples
        self._of_rows = of_rows

    def __len__(self) -> int:
        return len(self._examples)

    def _at(self, number: int) -> str:
        return self._examples.name(number, of_row=self._of_rows)
