"""Labels of language models: for each row of data a list of positions, for each position a record of fixed width.

An encoding turns last hidden states and logits into columns, and columns into what the losses read. How columns
lie in Arrow record batches is defined here, once for all of them.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from jaxtyping import Float
from torch import Tensor

from potstill.errors import LabelStoreError
from potstill.targets import Target

Columns = dict[str, npt.NDArray[Any]]
"""For each column an array of positions x numbers a position."""
TensorColumns = dict[str, Tensor]
"""The same as tensors, on the device where they were made."""


@dataclass(frozen=True)
class Column:
    dtype: type[np.generic]
    width: int
    """Numbers for each position."""
    packed: tuple[int, int] | None = None
    """Of packed token ids: how many for each position, and the size of the vocabulary."""


@runtime_checkable
class Codec(Protocol):
    """An encoding made for one teacher: its vocabulary, its head, and a grid of temperatures."""

    @property
    def columns(self) -> Mapping[str, Column]: ...

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """What is stored once for all positions."""
        ...

    def encode(
        self, hidden: Float[Tensor, "positions width"], logits: Float[Tensor, "positions vocabulary"]
    ) -> TensorColumns:
        """The columns of these positions, on their device, which is not waited for. The logits may be overwritten."""
        ...

    def target(self, columns: Mapping[str, Tensor]) -> Target:
        """What the losses read; the columns as tensors on the device where it is read."""
        ...


@dataclass(frozen=True)
class PositionLayout:
    """How labels of positions lie in record batches."""

    columns: Mapping[str, Column]

    @property
    def schema(self) -> pa.Schema:
        return arrow_schema(self.columns)

    def reads(self, schema: pa.Schema) -> bool:
        return any(schema.equals(arrow_schema(self.columns, list_of=list_of)) for list_of in (pa.large_list, pa.list_))

    def records(self, ids: Sequence[str], answer: tuple[Sequence[int], Columns | TensorColumns]) -> pa.RecordBatch:
        """From the number of positions of each row, and their columns one row after the other."""
        counts, columns = answer
        return to_records(ids, counts, on_host(columns), self.columns)

    def rows(self, batch: pa.RecordBatch) -> list[Columns]:
        return from_records(batch, self.columns)

    def digests(self, batch: pa.RecordBatch) -> Iterator[bytes]:
        for row in self.rows(batch):
            digest = hashlib.blake2b(digest_size=16)
            for name in self.columns:
                digest.update(row[name].tobytes())
            yield digest.digest()


def on_host(columns: Mapping[str, npt.NDArray[Any] | Tensor]) -> Columns:
    """The columns as arrays in the memory of the processor."""
    return {name: values.cpu().numpy() if isinstance(values, Tensor) else values for name, values in columns.items()}


def bytes_per_position(columns: Mapping[str, Column]) -> int:
    return sum(np.dtype(column.dtype).itemsize * column.width for column in columns.values())


def arrow_schema(
    columns: Mapping[str, Column], *, list_of: Callable[[pa.Field], pa.DataType] = pa.large_list
) -> pa.Schema:
    """A row of data in each record: its id, its number of positions, and for each column its flat list of numbers.

    Lists are large: 32 bits count no further than 2^31 numbers in a record batch, which hidden states of long rows
    reach. Stores of format 2 have such small ones.
    """
    lists = [
        pa.field(name, list_of(pa.field("item", pa.from_numpy_dtype(column.dtype), nullable=False)), nullable=False)
        for name, column in columns.items()
    ]
    fixed = [pa.field("id", pa.string(), nullable=False), pa.field("positions", pa.int32(), nullable=False)]
    return pa.schema(fixed + lists)


def to_records(
    ids: Sequence[str], counts: Sequence[int], columns: Columns, layout: Mapping[str, Column]
) -> pa.RecordBatch:
    """A record batch of rows with `counts` positions each, whose columns follow each other in that order.

    Raises:
        LabelStoreError: a number that is NaN or infinite; names row and position.
    """
    schema, ends = arrow_schema(layout), np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    arrays = [pa.array(ids, pa.string()), pa.array(counts, pa.int32())]
    for name, column in layout.items():
        values = columns[name]
        assert values.dtype == column.dtype and values.shape == (ends[-1], column.width), name
        _check_finite(name, values, ids, ends)
        offsets = pa.array(ends * column.width, pa.int64())
        flat = pa.array(values.reshape(-1), type=schema.field(name).type.value_type)
        arrays.append(pa.LargeListArray.from_arrays(offsets, flat, type=schema.field(name).type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def from_records(batch: pa.RecordBatch, layout: Mapping[str, Column]) -> list[Columns]:
    """The columns of each row, without a copy.

    Raises:
        LabelStoreError: a list whose length is not that of its row's positions, or a number that is not finite.
    """
    # In 32 bits the numbers of a long row would wrap around.
    counts = batch.column("positions").to_numpy().astype(np.int64)
    ends = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    rows: list[Columns] = [{} for _ in range(len(batch))]
    ids = batch.column("id").to_pylist()
    for name, column in layout.items():
        stored = batch.column(name)
        lengths = np.diff(stored.offsets.to_numpy())
        if not np.array_equal(lengths, counts * column.width):
            row = int(np.nonzero(lengths != counts * column.width)[0][0])
            raise LabelStoreError(
                f"id {ids[row]}: {lengths[row]} numbers in {name}, expected {column.width} for each of "
                f"{counts[row]} positions."
            )
        values = stored.flatten().to_numpy(zero_copy_only=True).reshape(-1, column.width)
        _check_finite(name, values, ids, ends)
        for row in range(len(batch)):
            rows[row][name] = values[ends[row] : ends[row + 1]]
    return rows


def _check_finite(name: str, values: npt.NDArray[Any], ids: Sequence[str], ends: npt.NDArray[Any]) -> None:
    if values.dtype.kind != "f" or (finite := np.isfinite(values)).all():
        return
    position = int(np.nonzero(~finite)[0][0])
    row = int(np.searchsorted(ends, position, side="right")) - 1
    raise LabelStoreError(
        f"Teacher labels non-finite: id {ids[row]}, position {position - ends[row]}, column {name}. "
        "Check the teacher's weights, or its overflow in half precision."
    )
