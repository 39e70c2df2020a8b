"""How rows of labels lie in record batches: all that reading and writing a store must know of an encoding."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa


@runtime_checkable
class Layout(Protocol):
    @property
    def schema(self) -> pa.Schema:
        """That of new shards."""
        ...

    def reads(self, schema: pa.Schema) -> bool:
        """Whether a shard with this schema, which may be of an earlier format, can be read."""
        ...

    def records(self, ids: Sequence[str], answer: Any) -> pa.RecordBatch:
        """A record batch of these rows from what the teacher answered.

        Raises:
            LabelStoreError: a number that is NaN or infinite; names the row.
        """
        ...

    def rows(self, batch: pa.RecordBatch) -> Sequence[Any]:
        """The label of each row.

        Raises:
            LabelStoreError: a stored number that is not finite, or a list of the wrong length.
        """
        ...

    def digests(self, batch: pa.RecordBatch) -> Iterator[bytes]:
        """For each row a digest of its label, however it is laid out."""
        ...
