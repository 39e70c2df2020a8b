"""The rows of a Parquet file, with values as JSON has them where Python has none for them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pyarrow.types as kinds

from potstill.data.formats import AGAIN, not_parquet
from potstill.errors import DataError

PARQUET_ROWS = 1024
"""Rows of a Parquet file that are held at a time."""

MAGIC = b"PAR1"
"""What a Parquet file begins and ends with."""


def parquet_records(path: Path) -> Iterator[tuple[str, Any]]:
    """The rows, each with its place: `row 2`.

    Raises:
        DataError: no Parquet file, a damaged one, or one with two columns of one name.
    """
    _require_ends(path)
    number, what = 0, "not a readable Parquet file"
    try:
        # Mapped, for Arrow else reads whole row groups ahead.
        with pa.parquet.ParquetFile(path, memory_map=True) as file:
            _require_different_names(path, "columns", list(file.schema_arrow))
            count = file.metadata.num_rows
            what = _rows(0, count)
            for batch in file.iter_batches(batch_size=PARQUET_ROWS):
                for record in _records(batch):
                    yield f"row {number}", record
                    number += 1
                what = _rows(number, count)
            if number < count:
                raise pa.ArrowInvalid("the file has fewer")
    except pa.ArrowNotImplementedError as error:
        raise DataError(f"{path}: {what} with pyarrow ({error}). Write them as .jsonl.") from None
    # Arrow calls damaged bytes an OSError, and a name that is not UTF-8 is a ValueError.
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path}: {what} ({error}). The file is damaged. {AGAIN}") from None


def _rows(first: int, count: int) -> str:
    return f"rows {first} to {min(first + PARQUET_ROWS, count) - 1} cannot be read"


def _require_ends(path: Path) -> None:
    """Raises DataError: it does not begin and end as Parquet does."""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise not_parquet(path)
        file.seek(-len(MAGIC), 2)
        if file.read() != MAGIC:
            raise DataError(f"{path}: not a readable Parquet file: its end is missing (file truncated?). {AGAIN}")


def _require_different_names(path: Path, what: str, fields: list[pa.Field]) -> None:
    """Raises DataError: two columns, or two fields of a struct, have one name, so that one would hide the other."""
    names = [field.name for field in fields]
    for name in names:
        if names.count(name) > 1:
            raise DataError(
                f'{path}: {names.count(name)} {what} are named "{name}"; expected a name for each. Rename or drop all '
                "but one."
            )
    for field in fields:
        inside = field.type
        while _is_list(inside) or kinds.is_map(inside):
            inside = inside.item_type if kinds.is_map(inside) else inside.value_type
        if kinds.is_struct(inside):
            _require_different_names(path, f'fields of "{field.name}"', list(inside))


def _records(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    columns = [_values(column) for column in batch.columns]
    return [dict(zip(batch.schema.names, values, strict=True)) for values in zip(*columns, strict=True)]


def _values(column: pa.Array) -> list[Any]:
    """As Python has them; where it has not, times as texts and texts that are not UTF-8 as bytes. Whether that matters
    is known where the column is read."""
    values: list[Any]
    try:
        values = column.to_pylist()
    # An unknown time zone is a KeyError, or one of Arrow.
    except (KeyError, OverflowError, ValueError, pa.ArrowException):
        column = _cast(_cast(column, _without_zone), _as_text)
        try:
            values = column.to_pylist()
        except UnicodeDecodeError:
            values = [_decoded(value) for value in _cast(column, _as_bytes).to_pylist()]
    return values


def _decoded(value: Any) -> Any:
    """The value with bytes only where they are not UTF-8."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    if isinstance(value, dict):
        return {_decoded(key): _decoded(each) for key, each in value.items()}
    return type(value)(map(_decoded, value)) if isinstance(value, list | tuple) else value


Leaf = Callable[[pa.DataType], pa.DataType]


def _without_zone(kind: pa.DataType) -> pa.DataType:
    """A time zone need not be known: without it a timestamp is in UTC."""
    return pa.timestamp(kind.unit) if kinds.is_timestamp(kind) else kind


def _as_text(kind: pa.DataType) -> pa.DataType:
    """Python's dates end with the year 9999, and its times with microseconds."""
    return pa.string() if kinds.is_temporal(kind) else kind


def _as_bytes(kind: pa.DataType) -> pa.DataType:
    if kinds.is_large_string(kind):
        return pa.large_binary()
    return pa.binary() if kinds.is_string(kind) or kinds.is_string_view(kind) else kind


def _cast(column: pa.Array, leaf: Leaf) -> pa.Array:
    kind = _kind(column.type, leaf)
    return column if kind == column.type else column.cast(kind)


def _kind(kind: pa.DataType, leaf: Leaf) -> pa.DataType:
    """The type with `leaf` of those inside."""
    if kinds.is_struct(kind):
        return pa.struct([field.with_type(_kind(field.type, leaf)) for field in kind])
    if kinds.is_map(kind):
        return pa.map_(_kind(kind.key_type, leaf), _kind(kind.item_type, leaf))
    if kinds.is_dictionary(kind):
        value = _kind(kind.value_type, leaf)
        return kind if value == kind.value_type else value
    if _is_list(kind):
        item = kind.value_field.with_type(_kind(kind.value_type, leaf))
        if kinds.is_fixed_size_list(kind):
            return pa.list_(item, kind.list_size)
        return pa.large_list(item) if kinds.is_large_list(kind) else pa.list_(item)
    return leaf(kind)


def _is_list(kind: pa.DataType) -> bool:
    return bool(kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind))
