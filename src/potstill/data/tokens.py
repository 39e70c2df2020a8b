"""Tokenised examples, of which memory holds a few bytes each and a file the rest."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Int32

from potstill.data.ids import Index, Keys
from potstill.data.on_disk import Lazy, Pieces


@dataclass(frozen=True, eq=False, slots=True)
class Tokenised:
    """Token ids; `trained` is true where a token is to be learnt, which the first never is: nothing predicts it."""

    id: str
    ids: Int32[np.ndarray, "tokens"]
    trained: Bool[np.ndarray, "tokens"]


class TokenFile(Lazy[Tokenised]):
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

    def _at(self, number: int) -> Tokenised:
        piece, count = self._pieces[number], int(self.lengths[number])
        # Copies, since a piece begins anywhere.
        ids = np.frombuffer(piece, dtype=np.int32, count=count).copy()
        flags = np.frombuffer(piece, dtype=np.bool_, count=count, offset=4 * count).copy()
        return Tokenised(bytes(piece[5 * count :]).decode(), ids, flags)

    @property
    def names(self) -> Sequence[str]:
        """The id of each example."""
        return _Names(self)

    def name(self, number: int) -> str:
        return bytes(self._pieces[number][5 * int(self.lengths[number]) :]).decode()

    def first_repeated(self) -> int | None:
        """The first example whose id another had before it."""
        return Index(self._keys).first_repeated()


class _Names(Lazy[str]):
    def __init__(self, examples: TokenFile) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def _at(self, number: int) -> str:
        return self._examples.name(number)
