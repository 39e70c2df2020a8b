"""Shards of a label store: what is planned, and one on its way to disk."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from potstill.labels.layout import Layout
from potstill.labels.store import ShardEntry, batch_checksum
from potstill.run_dir import atomic_file, file_digest


@dataclass(frozen=True)
class PlannedShard:
    """A shard that is to be written: its file, and the rows of each of its batches."""

    file: str
    batches: Sequence[Sequence[int]]


@dataclass(frozen=True)
class WritePlan:
    """What a store lacks. It follows from the rows, the batches and what is on disk, and not from who writes which."""

    whole: tuple[ShardEntry, ...]
    """Shards that stay."""
    rows_held: int
    """Rows of these."""
    missing: tuple[PlannedShard, ...]


class OpenShard:
    """A shard that is being written: it has its name only once it is whole."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self._path = path
        self._layout = layout
        self._rows: list[int] = []
        self._checksums: list[str] = []
        self.seconds = 0.0
        """Spent on records, checksums and the disk."""
        self._open = ExitStack()
        temporary = self._open.enter_context(atomic_file(path, private=True))
        sink = self._open.enter_context(pa.OSFile(str(temporary), "wb"))
        self._writer = self._open.enter_context(pa.ipc.new_file(sink, layout.schema))

    def add(self, ids: Sequence[str], arrived: Callable[[], Any]) -> int:
        """Write these rows, once their answer has arrived; returns their number."""
        answer, started = arrived(), time.perf_counter()
        records = self._layout.records(ids, answer)
        self._writer.write_batch(records)
        self._checksums.append(batch_checksum(records))
        self._rows.append(len(ids))
        self.seconds += time.perf_counter() - started
        return len(ids)

    def close(self) -> ShardEntry:
        started = time.perf_counter()
        self._open.close()
        entry = entry_of(self._path, self._rows, self._checksums)
        self.seconds += time.perf_counter() - started
        return entry

    def discard(self) -> None:
        """Leave nothing of a shard that was not closed."""
        with suppress(_NotWhole), self._open:
            raise _NotWhole


class _NotWhole(Exception):
    """Ends the making of a shard."""


def entry_of(path: Path, rows: Sequence[int], checksums: Sequence[str]) -> ShardEntry:
    return ShardEntry(
        file=path.name,
        rows=sum(rows),
        sha256=file_digest(path),
        batch_rows=tuple(rows),
        batch_checksums=tuple(checksums),
    )
