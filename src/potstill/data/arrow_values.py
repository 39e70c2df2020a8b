"""The values of Arrow's columns as Python has them, and as JSON has them where Python has none for them."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.types as kinds

from potstill.data.class_names import Named
from potstill.errors import DataError


def require_different_names(path: Path, what: str, fields: list[pa.Field]) -> None:
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
            require_different_names(path, f'fields of "{field.name}"', list(inside))


def records_in(
    path: Path, first: int, batch: pa.RecordBatch, named: Mapping[str, Named], refuse: Callable[[DataError], None]
) -> Iterator[tuple[str, Any]]:
    """The rows of a batch that begins with row `first` of its file, each with its place: `row 2`; `refuse` is given
    those with a class id that has no name."""
    for number, record in enumerate(_records(batch), start=first):
        try:
            for column, names in named.items():
                if column in record:
                    record[column] = names(record[column])
        except ValueError as error:
            refuse(DataError(f'{path}: row {number} "{column}": {error}.'))
            continue
        yield f"row {number}", record


def _records(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    columns = [_values(column) for column in batch.columns]
    return [dict(zip(batch.schema.names, values, strict=True)) for values in zip(*columns, strict=True)]


def _values(column: pa.Array) -> list[Any]:
    """As Python has them; where it has not, times as texts and texts that are not UTF-8 as bytes. Whether that matters
    is known where the column is read."""
    values: list[Any]
    try:
        values = _cast(column, _in_microseconds).to_pylist()
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


def _in_microseconds(kind: pa.DataType) -> pa.DataType:
    """Python's times have no nanoseconds. Where pandas is installed, Arrow would give its times instead."""
    if not kinds.is_temporal(kind) or getattr(kind, "unit", None) != "ns":
        return kind
    if kinds.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    return pa.duration("us") if kinds.is_duration(kind) else pa.time64("us")


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
