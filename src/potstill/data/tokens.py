"""Tokenised examples, of which memory holds a few bytes each and a file the rest."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Int32

from potstill.data.ids import Index, Keys
from potstill.data.on_disk import Pieces


@dataclass(frozen=True, eq=False, slots=True)
class Tokenised:
    """Token ids; `trained` is true where a token is to be learnt, which the first never is: nothing predicts it."""

    id: str
    ids: Int32[np.ndarray, "tokens"]
    trained: Bool[np.ndarray, "tokens"]


class TokenFile(Sequence[Tokenised]):
    """Examples in a temporary file, read each time that one is asked for."""

    def __init__(self, examples: Iterable[Tokenised]) -> None:
        lengths, trained, self._keys = array("i"), array("i"), Keys()

        def pieces() -> Iterator[bytes]:
            for example in examples:
                assert not example.trained[0], "no position predicts a first token"
                lengths.append(len(example.ids))
                trained.append(int(example.trained.sum()))
                self._keys.add(example.id)
                yield example.ids.tobytes() + example.trained.tobytes() + example.id.encode()

        self._pieces = Pieces(pieces())
        self.lengths: npt.NDArray[np.int32] = np.frombuffer(lengths, dtype=np.int32)
        """Tokens of each example."""
        self.trained_counts: npt.NDArray[np.int32] = np.frombuffer(trained, dtype=np.int32)
        """Tokens to be learnt in each example."""

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, number: int) -> Tokenised: ...
    @overload
    def __getitem__(self, number: slice) -> list[Tokenised]: ...
    def __getitem__(self, number: int | slice) -> Tokenised | list[Tokenised]:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        number = range(len(self))[number]
        piece, count = self._pieces[number], int(self.lengths[number])
        # Copies, since a piece begins anywhere.
        ids = np.frombuffer(piece, dtype=np.int32, count=count).copy()
        flags = np.frombuffer(piece, dtype=np.bool_, count=count, offset=4 * count).copy()
        return Tokenised(bytes(piece[5 * count :]).decode(), ids, flags)

    def name(self, number: int) -> str:
        """The id of an example."""
        return bytes(self._pieces[number][5 * int(self.lengths[number]) :]).decode()

    def first_repeated(self) -> int | None:
        """The first example whose id another had before it."""
        return Index(self._keys).first_repeated()


class Names(Sequence[str]):
    """The ids of examples, each read when it is asked for."""

    def __init__(self, examples: TokenFile) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    @overload
    def __getitem__(self, number: int) -> str: ...
    @overload
    def __getitem__(self, number: slice) -> list[str]: ...
    def __getitem__(self, number: int | slice) -> str | list[str]:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        return self._examples.name(range(len(self))[number])
