"""potstill predict: rows of JSON through an exported model, in batches, in their order."""

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from potstill.errors import DataError, PotstillError
from potstill.progress import Progress
from potstill.run_dir import atomic_file
from potstill.runtimes.answering import Asking, open_answerer

Numbered = tuple[int, dict[str, Any]]


def predict_rows(
    artefact: Path, file: Path | None, out: Path | None, *, batch_size: int, threads: int, progress: Progress
) -> None:
    """An answer for each row, with the row's `id` where it has one. A file that is written is whole, or not there.

    Raises:
        ModelError: the folder holds no exported model.
        DataError: a line that is no JSON object or has not what the model reads; names its number.
    """
    answerer = open_answerer(artefact, Asking(threads))
    with ExitStack() as stack:
        source = stack.enter_context(_opened(file)) if file is not None else sys.stdin
        name = str(file) if file is not None else "standard input"
        target = sys.stdout
        if out is not None:
            target = stack.enter_context(stack.enter_context(atomic_file(out)).open("w", encoding="utf-8"))
        total = _count(file) if file is not None else None
        advance = stack.enter_context(progress.task("predict", total or 0, "rows")) if total else _nothing
        for batch in _batches(_rows(source, name), batch_size):
            for (_, row), answer in zip(batch, _answered(answerer, batch, name), strict=True):
                known = {"id": row["id"]} if "id" in row else {}
                target.write(json.dumps(known | answer, ensure_ascii=False) + "\n")
            target.flush()
            advance(len(batch))


def read_lines(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file.

    Raises:
        DataError: it cannot be read, or has a line that is no JSON object.
    """
    with _opened(file) as source:
        yield from (row for _, row in _rows(source, str(file)))


def _nothing(_: int) -> None:
    """What is read from standard input has no known end."""


def _opened(file: Path) -> TextIO:
    try:
        return file.open(encoding="utf-8", newline="\n")
    except OSError as error:
        raise DataError(f"{file}: {error.strerror or error}. Give a file of JSON lines.") from None


def _count(file: Path) -> int:
    with file.open("rb") as lines:
        return sum(1 for line in lines if line.strip())


def _rows(source: TextIO, name: str) -> Iterator[Numbered]:
    # Not `splitlines`: a string of JSON may hold characters that it takes for ends of lines.
    number = 0
    try:
        for number, line in enumerate(source, 1):
            if not line.strip():
                continue
            row = json.loads(line)
            if not isinstance(row, dict):
                raise DataError(
                    f'{name}, line {number}: expected an object such as {{"text": "..."}}, got {line[:40]!r}.'
                )
            yield number, row
    except json.JSONDecodeError as error:
        raise DataError(f"{name}, line {number}: no JSON ({error.msg} at column {error.colno}).") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{name}, after line {number}: not in UTF-8 ({error.reason}).") from None


def _batches(rows: Iterable[Numbered], size: int) -> Iterator[list[Numbered]]:
    source = iter(rows)
    while batch := list(islice(source, size)):
        yield batch


def _answered(answerer: Any, batch: list[Numbered], name: str) -> list[dict[str, Any]]:
    try:
        answers: list[dict[str, Any]] = answerer([row for _, row in batch])
        return answers
    except DataError:
        for number, row in batch:
            try:
                answerer([row])
            except PotstillError as error:
                raise DataError(f"{name}, line {number}: {error}") from None
        raise
