"""The rows of a Parquet file, with values as JSON has them where Python has none for them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from potstill.data.arrow_values import records_in, require_different_names
from potstill.data.class_names import features_of, namings
from potstill.data.formats import not_parquet
from potstill.data.opening import AGAIN
from potstill.errors import DataError

PARQUET_ROWS = 1024
"""Rows of a Parquet file that are held at a time."""

MAGIC = b"PAR1"
"""What a Parquet file begins and ends with."""


def parquet_records(path: Path, refuse: Callable[[DataError], None]) -> Iterator[tuple[str, Any]]:
    """The rows, each with its place: `row 2`; with names of classes where the file has any for its ids.

    Raises:
        DataError: no Parquet file, a damaged one, or one with two columns of one name; `refuse` is given rows with a
            class id that has no name.
    """
    _require_ends(path)
    number, what = 0, "not a readable Parquet file"
    try:
        # Mapped, for Arrow else reads whole row groups ahead.
        with pa.parquet.ParquetFile(path, memory_map=True) as file:
            require_different_names(path, "columns", list(file.schema_arrow))
            named = namings(features_of(file.schema_arrow.metadata))
            count = file.metadata.num_rows
            what = _rows(0, count)
            for batch in file.iter_batches(batch_size=PARQUET_ROWS):
                yield from records_in(path, number, batch, named, refuse)
                number += len(batch)
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
