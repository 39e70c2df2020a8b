"""Reading a label store: Arrow IPC shards, memory-mapped, each record batch checked on its first read.

manifest.json          written last: its existence means that the store is complete
manifest.json.sha256   the manifest's own digest
shard-00000.arrow      rows of label, in record batches fixed by the plan
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from potstill.errors import LabelStoreError
from potstill.labels.dense import Dense
from potstill.run_dir import file_digest

MANIFEST = "manifest.json"
FORMAT = 1


class LabelSource(BaseModel):
    """What the labels are answers of: all of it must match, or a row's label would be another's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    teacher: str
    """Digest of the teacher's weights and configuration."""
    tokenizer: str
    """Fingerprint of vocabulary and rules."""
    data: str
    """Fingerprint of ids, texts and their order."""
    labels: tuple[str, ...]
    """The classes in the order of the logits."""
    max_length: int
    precision: str


class ShardEntry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    rows: int
    sha256: str
    batch_rows: tuple[int, ...]
    batch_checksums: tuple[str, ...]


class Manifest(BaseModel):
    """All about a store, in one file beside its shards."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int
    encoding: Dense
    source: LabelSource
    rows: int
    content_digest: str
    """Over the rows sorted by id: equal for equal labels, however they were made and laid out."""
    shards: tuple[ShardEntry, ...]


@dataclass(frozen=True)
class _Place:
    shard: int
    batch: int
    row: int


class LabelStore:
    """A complete store, opened for reading by id."""

    def __init__(self, folder: Path) -> None:
        """Read the manifest and the ids.

        Raises:
            LabelStoreError: no manifest, one that was changed, a missing shard, or a duplicate id.
        """
        self.folder = folder
        self.manifest = read_manifest(folder)
        self._tables = [self._open(shard) for shard in self.manifest.shards]
        self._decoded: dict[tuple[int, int], npt.NDArray[np.floating]] = {}
        self._places: dict[str, _Place] = {}
        for shard, reader in enumerate(self._tables):
            for batch in range(reader.num_record_batches):
                for row, identity in enumerate(self._batch(shard, batch).column("id").to_pylist()):
                    if identity in self._places:
                        raise LabelStoreError(f"{folder}: id {identity!r} is stored twice.")
                    self._places[identity] = _Place(shard, batch, row)

    def __len__(self) -> int:
        return self.manifest.rows

    def __contains__(self, identity: str) -> bool:
        return identity in self._places

    def require(self, expected: LabelSource) -> None:
        """Check that the labels belong to this teacher, tokenizer and data.

        Raises:
            LabelStoreError: names the first thing that differs.
        """
        stored = self.manifest.source
        if stored.labels != expected.labels:
            position, old, new = first_difference(stored.labels, expected.labels)
            raise LabelStoreError(
                f"{self.folder}: class {position}: teacher {old!r}, student {new!r}; "
                f"labels were made for {len(stored.labels)} classes, the student has {len(expected.labels)}."
            )
        for name in ("tokenizer", "teacher", "data", "max_length", "precision"):
            old, new = getattr(stored, name), getattr(expected, name)
            if old != new:
                raise LabelStoreError(
                    f"{self.folder}: labels were made with {name} {str(old)[:12]}, this run has "
                    f"{str(new)[:12]}. Label again with this {name}, or use the run that made them."
                )

    def logits(self, ids: Sequence[str]) -> npt.NDArray[np.floating]:
        """The logits of these rows, found by id.

        Raises:
            LabelStoreError: an id that the store has not, or a record batch that was damaged.
        """
        rows = []
        for identity in ids:
            place = self._places.get(identity)
            if place is None:
                raise LabelStoreError(f"{self.folder}: no label for id {identity!r} ({len(self)} rows stored).")
            rows.append(self._values(place.shard, place.batch)[place.row])
        return np.stack(rows)

    def _values(self, shard: int, batch: int) -> npt.NDArray[np.floating]:
        key = (shard, batch)
        if key not in self._decoded:
            self._decoded[key] = self.manifest.encoding.decode(self._batch(shard, batch))
        return self._decoded[key]

    def _open(self, shard: ShardEntry) -> pa.ipc.RecordBatchFileReader:
        path = self.folder / shard.file
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
        except (OSError, pa.ArrowException) as error:
            raise LabelStoreError(damaged(path, str(error).splitlines()[0])) from None
        if reader.num_record_batches != len(shard.batch_rows):
            raise LabelStoreError(damaged(path, f"{reader.num_record_batches} record batches"))
        if not reader.schema.equals(self.manifest.encoding.arrow_schema(len(self.manifest.source.labels))):
            raise LabelStoreError(damaged(path, "unexpected columns"))
        return reader

    def _batch(self, shard: int, batch: int) -> pa.RecordBatch:
        """A record batch, compared with its checksum."""
        entry = self.manifest.shards[shard]
        path = self.folder / entry.file
        try:
            records = self._tables[shard].get_batch(batch)
            records.validate(full=True)
            found = batch_checksum(records)
        except (OSError, pa.ArrowException) as error:
            raise LabelStoreError(damaged(path, f"record batch {batch}: {error}")) from None
        if found != entry.batch_checksums[batch]:
            raise LabelStoreError(damaged(path, f"record batch {batch} does not match its checksum"))
        return records


def read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
        recorded = (folder / f"{MANIFEST}.sha256").read_bytes().strip()
    except FileNotFoundError as error:
        raise LabelStoreError(
            f"{folder}: not a complete label store ({Path(error.filename).name} is missing). Run potstill label."
        ) from None
    if hashlib.sha256(content).hexdigest().encode() != recorded:
        raise LabelStoreError(f"{path}: was changed after it was written. Run potstill labels verify {folder}")
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise LabelStoreError(f"{path}: not a manifest of this version: {error.errors()[0]['msg']}") from None
    if manifest.format != FORMAT:
        raise LabelStoreError(f"{path}: format {manifest.format}; this potstill reads format {FORMAT}.")
    return manifest


def damaged_shards(folder: Path) -> Iterator[tuple[ShardEntry, str]]:
    """Every shard whose file is missing or differs from its sha256, with the reason."""
    for shard in read_manifest(folder).shards:
        path = folder / shard.file
        if not path.is_file():
            yield shard, "missing"
        elif (found := file_digest(path)) != shard.sha256:
            yield shard, f"sha256 {found[:12]}, expected {shard.sha256[:12]}"


def batch_checksum(batch: pa.RecordBatch) -> str:
    """128 bits over the serialised record batch: ids, values and layout."""
    return hashlib.blake2b(memoryview(batch.serialize()), digest_size=16).hexdigest()


def content_digest(readers: Sequence[Any], encoding: Dense) -> str:
    """Digest over all rows sorted by id: it does not depend on the order of work."""
    rows: list[tuple[str, bytes]] = []
    for reader in readers:
        for batch in range(reader.num_record_batches):
            records = reader.get_batch(batch)
            values = encoding.decode(records)
            for identity, value in zip(records.column("id").to_pylist(), values, strict=True):
                rows.append((identity, hashlib.blake2b(value.tobytes(), digest_size=16).digest()))
    digest = hashlib.sha256()
    for identity, value_digest in sorted(rows):
        digest.update(json.dumps(identity).encode() + value_digest)
    return digest.hexdigest()


def first_difference(old: Sequence[str], new: Sequence[str]) -> tuple[int, str | None, str | None]:
    """Position and values where two sequences first differ; None past the end of the shorter one."""
    for position in range(max(len(old), len(new))):
        left = old[position] if position < len(old) else None
        right = new[position] if position < len(new) else None
        if left != right:
            return position, left, right
    raise AssertionError("the sequences are equal")


def damaged(path: Path, reason: str) -> str:
    return (
        f"{path}: damaged ({reason}). Run potstill labels repair {path.parent}, then potstill label again: "
        "only the damaged shards are made anew."
    )
