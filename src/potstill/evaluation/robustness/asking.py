"""A model that is asked about many texts, equal ones once."""

from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from potstill.data.encoded import Encoded, EncodedRows
from potstill.data.rows import BETWEEN, Row
from potstill.runtimes.predictor import Advance, Outputs

Texts = tuple[str, ...]
"""The one text of a row, or the two of a pair."""


def with_texts(row: Row, texts: Texts) -> Row:
    """The row with other texts, as many as it has."""
    second_at = None if row.second_at is None else len(texts[0]) + len(BETWEEN)
    return Row(row.id, BETWEEN.join(texts), row.label, row.domain, second_at)


@runtime_checkable
class Answering(Protocol):
    """What an asker needs of a predictor."""

    @property
    def asks_others(self) -> bool: ...

    def outputs(self, rows: Encoded, advance: Advance) -> Outputs: ...


class Asker:
    """The outputs of one model. Rows of the same token ids are asked about once, however often they come."""

    def __init__(self, predictor: Answering) -> None:
        self._predictor = predictor
        self._known: dict[tuple[str, bytes, bytes], npt.NDArray[np.float32]] = {}

    def outputs(self, rows: EncodedRows) -> Outputs:
        """Rows x classes, in the order of the rows."""
        keys = [self._key(rows, number) for number in range(len(rows.ids))]
        new = {key: number for number, key in enumerate(keys) if key not in self._known}
        if new:
            found = self._predictor.outputs(rows.select(list(new.values())), _unseen)
            self._known |= dict(zip(new, found, strict=True))
        return np.stack([self._known[key] for key in keys])

    def _key(self, rows: EncodedRows, number: int) -> tuple[str, bytes, bytes]:
        # Which members of an ensemble answer may depend on the row.
        identity = rows.ids[number] if self._predictor.asks_others else ""
        types = b"" if rows.types is None else rows.types[number].tobytes()
        return identity, rows.tokens[number].tobytes(), types


def _unseen(_: int) -> None:
    """Rows that were asked before count too, so it is who asks that counts."""
