"""The rows of Arrow files, as `datasets` saves them, streams and files alike."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc

from potstill.data.arrow_values import records_in, require_different_names
from potstill.data.class_names import features_of, namings
from potstill.data.opening import AGAIN
from potstill.errors import DataError

ARROW_ROWS = 1024
"""Rows that are Python's at a time; the file itself is mapped."""

FILE = b"ARROW1"
"""With what an Arrow file begins and ends; a stream does not."""

END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
"""With what a stream ends. One that was cut between two batches would be read without a word."""


def arrow_records(path: Path, refuse: Callable[[DataError], None]) -> Iterator[tuple[str, Any]]:
    """The rows, each with its place: `row 2`; with names of classes where the file has any for its ids.

    Raises:
        DataError: no Arrow file, a damaged one, or one with two columns of one name; `refuse` is given rows with a
            class id that has no name.
    """
    is_file = _is_file(path)
    number, what = 0, "not a readable Arrow file"
    try:
        with pa.memory_map(str(path)) as source:
            reader = pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)
            require_different_names(path, "columns", list(reader.schema))
            named = namings(features_of(reader.schema.metadata))
            batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader
            for batch in batches:
                what = f"rows from {number:,} on cannot be read"
                # Arrow follows offsets without a look, over the end of what is mapped.
                batch.validate(full=True)
                for start in range(0, len(batch), ARROW_ROWS):
                    yield from records_in(path, number + start, batch.slice(start, ARROW_ROWS), named, refuse)
                number += len(batch)
    except pa.ArrowNotImplementedError as error:
        raise DataError(f"{path}: {what} with pyarrow ({error}). Write them as .jsonl.") from None
    # Arrow calls damaged bytes an OSError, and a name that is not UTF-8 is a ValueError.
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path}: {what} ({error}). The file is damaged. {AGAIN}") from None


def _is_file(path: Path) -> bool:
    """Whether it is no stream.

    Raises:
        DataError: it does not end as one of the two does.
    """
    with path.open("rb") as file:
        is_file = file.read(len(FILE)) == FILE
        end = FILE if is_file else END_OF_STREAM
        size = file.seek(0, 2)
        file.seek(max(0, size - len(end)))
        if file.read() != end:
            raise DataError(f"{path}: not a readable Arrow file: its end is missing (file truncated?). {AGAIN}")
    return is_file
