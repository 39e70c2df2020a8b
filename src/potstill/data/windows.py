"""The parts in which a document is read, of which each word is answered in exactly one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """A part of a document as the model reads it."""

    tokens: npt.NDArray[np.int32]
    """With the tokens that begin and end every text."""
    places: Numbers
    """Where the first pieces of the words stand that are answered here."""
    words: Numbers
    """The numbers of these words in the document."""


def windows_in(encodings: Sequence[Any], step: int, overlap: int) -> list[Window]:
    """The windows of one document, the n-th of which begins at piece n * step."""
    found: list[Window] = []
    before: int | None = None  # the word that the piece before this window is of
    for number, encoding in enumerate(encodings):
        word_of = [
            word for word, special in zip(encoding.word_ids, encoding.special_tokens_mask, strict=True) if not special
        ]
        offset = next((place for place, special in enumerate(encoding.special_tokens_mask) if not special), 0)
        first = [word != (before if place == 0 else word_of[place - 1]) for place, word in enumerate(word_of)]
        low = 0 if number == 0 else overlap // 2
        high = len(word_of) if number == len(encodings) - 1 else step + overlap // 2
        places = [place for place in range(low, min(high, len(word_of))) if first[place]]
        found.append(
            Window(
                tokens=np.asarray(encoding.ids, dtype=np.int32),
                places=np.array([offset + place for place in places], dtype=np.int64),
                words=np.array([word_of[place] for place in places], dtype=np.int64),
            )
        )
        before = word_of[step - 1] if len(word_of) >= step else None
    return found
