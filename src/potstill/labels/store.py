"""Reading a label store: Arrow IPC shards, memory-mapped, each record batch checked when the store is opened.

manifest.json          written last: its existence means that the store is complete
manifest.json.sha256   the manifest's own digest
shard-00000.arrow      rows of label, in record batches fixed by the plan
codec.safetensors      what an encoding stores once for all rows, where it does
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_serializer, model_validator
from safetensors.torch import load_file
from torch import Tensor

from potstill.data.ids import Index, Keys
from potstill.errors import LabelStoreError
from potstill.labels.dense import Dense, DenseLayout, DensePositions
from potstill.labels.encodings import AnyEncoding, load_codec
from potstill.labels.layout import Layout
from potstill.labels.positions import Codec, Columns, PositionLayout
from potstill.labels.states import States
from potstill.records import LabelFidelity
from potstill.run_dir import file_digest

MANIFEST = "manifest.json"
CODEC = "codec.safetensors"
FITTED = "fitted.json"
"""What was measured before the first label; written by who fits an encoding."""
FORMAT = 3
WITHOUT_CODEC = (Dense, DensePositions, States)
"""Encodings whose rows say all by themselves."""
READABLE = (2, 3)
"""Format 2 has lists whose offsets are of 32 bits; a store that was begun with it may have shards of both."""


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
    weights: str | None = None
    """How the teacher's weights were held, where it was not in float32."""
    tokens: str | None = None
    """Of models that write: digest of the token ids that the rows became, and of which of them are learnt."""

    @model_serializer(mode="wrap")
    def _as_before(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Without what is not known, or always was so, as in stores of earlier versions."""
        values = handler(self)
        return {name: value for name, value in values.items() if value is not None}


def _shard_name(name: str) -> str:
    # Entries are opened and removed by it, so that no file is allowed to name another than a shard.
    if not re.fullmatch(r"shard-[0-9]{5,}\.arrow", name):
        raise ValueError(f"{name!r} is not the name of a shard, such as shard-00000.arrow")
    return name


class ShardEntry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    file: Annotated[str, AfterValidator(_shard_name)]
    rows: int
    sha256: str
    batch_rows: tuple[int, ...]
    batch_checksums: tuple[str, ...]

    @model_validator(mode="after")
    def _adds_up(self) -> "ShardEntry":
        if min(self.batch_rows, default=0) < 0 or sum(self.batch_rows) != self.rows:
            raise ValueError(f"{self.file} has {self.rows} rows, and its batches {sum(self.batch_rows)}")
        if len(self.batch_checksums) != len(self.batch_rows):
            raise ValueError(
                f"{self.file} has {len(self.batch_rows)} batches, and checksums of {len(self.batch_checksums)}"
            )
        return self


class PositionLabels(BaseModel):
    """What the labels of a language model have beside their rows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    vocabulary: int
    temperatures: tuple[float, ...]
    """The grid at which the mass of the tail is known."""
    codec_sha256: str | None
    """Of codec.safetensors, where there is one."""
    positions: int
    errors: tuple[LabelFidelity, ...]
    """Measured on positions that nothing was fitted on."""


class Manifest(BaseModel):
    """All about a store, in one file beside its shards."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int
    encoding: AnyEncoding
    source: LabelSource
    positions: PositionLabels | None = None
    """None for labels of whole rows, and for features."""
    rows: int
    content_digest: str
    """Over all rows, whatever their order: equal for equal labels, however they were made and laid out."""
    shards: tuple[ShardEntry, ...]

    @model_validator(mode="after")
    def _adds_up(self) -> "Manifest":
        if sum(shard.rows for shard in self.shards) != self.rows:
            raise ValueError(f"{self.rows} rows, and {sum(shard.rows for shard in self.shards)} in the shards")
        if len({shard.file for shard in self.shards}) != len(self.shards):
            raise ValueError("a shard is named twice")
        if self.positions is None and not isinstance(self.encoding, WITHOUT_CODEC):
            raise ValueError(f"labels of encoding {self.encoding.kind} without a word of their positions")
        return self


class LabelStore:
    """A complete store, opened for reading by id."""

    def __init__(self, folder: Path) -> None:
        """Read the manifest and the ids.

        Raises:
            LabelStoreError: no manifest, one that was changed, a missing or damaged shard, a number that is not
                finite, or a duplicate id.
        """
        self.folder = folder
        self.manifest = read_manifest(folder)
        self.codec = read_codec(folder, self.manifest)
        self._layout = layout_of(self.manifest, self.codec)
        self._tables = [self._open(shard) for shard in self.manifest.shards]
        keys, sizes, self._batches = Keys(), [0], []
        for shard, reader in enumerate(self._tables):
            for batch in range(reader.num_record_batches):
                records = self._batch(shard, batch)
                # A number that is not finite is found now.
                self._layout.rows(records)
                for identity in records.column("id").to_pylist():
                    keys.add(identity)
                self._batches.append((shard, batch))
                sizes.append(len(records))
        self._starts = np.cumsum(sizes)
        self._index = Index(keys)
        repeated = self._index.first_repeated()
        if repeated is not None:
            twice, row = self._find(repeated)
            raise LabelStoreError(f"{folder}: id {twice.column('id')[row].as_py()!r} is stored twice.")

    def __len__(self) -> int:
        return self.manifest.rows

    def __contains__(self, identity: str) -> bool:
        return self._index.find(identity) is not None

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
            if old == "auto" and name == "precision":
                # An earlier version wrote it so; the run's record has been compared with this run by then.
                continue
            if old != new:
                raise LabelStoreError(
                    f"{self.folder}: labels were made with {name} {str(old)[:12]}, this run has "
                    f"{str(new)[:12]}. Label again with this {name}, or use the run that made them."
                )
        # Stores of earlier versions do not know theirs.
        if stored.tokens is not None and expected.tokens is not None and stored.tokens != expected.tokens:
            raise LabelStoreError(
                f"{self.folder}: labels were made of rows with token ids {stored.tokens[:12]}, and the same rows have "
                f"{expected.tokens[:12]} in this run: the chat template writes them otherwise. Remove this folder and "
                "label again."
            )

    def logits(self, ids: Sequence[str]) -> npt.NDArray[np.floating]:
        """The logits of these rows, found by id, from a store of dense labels.

        Raises:
            LabelStoreError: an id that the store has not.
        """
        return np.stack([self._row(identity) for identity in ids])

    def positions(self, ids: Sequence[str]) -> tuple[Columns, list[int]]:
        """The columns of these rows, one row after the other, and each row's number of positions.

        Raises:
            LabelStoreError: an id that the store has not.
        """
        assert isinstance(self._layout, PositionLayout)
        rows: list[Columns] = [self._row(identity) for identity in ids]
        names = list(self._layout.columns)
        return {name: np.concatenate([row[name] for row in rows]) for name in names}, [
            len(row[names[0]]) for row in rows
        ]

    def _row(self, identity: str) -> Any:
        number = self._index.find(identity)
        if number is None:
            raise LabelStoreError(f"{self.folder}: no label for id {identity!r} ({len(self)} rows stored).")
        records, row = self._find(number)
        return self._layout.rows(records.slice(row, 1))[0]

    def _find(self, number: int) -> tuple[pa.RecordBatch, int]:
        """The record batch of a row, in the order in which rows are stored, and its place there."""
        batch = int(np.searchsorted(self._starts, number, side="right")) - 1
        shard, within = self._batches[batch]
        return self._tables[shard].get_batch(within), number - int(self._starts[batch])

    def _open(self, shard: ShardEntry) -> pa.ipc.RecordBatchFileReader:
        path = self.folder / shard.file
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
        except (OSError, pa.ArrowException) as error:
            raise LabelStoreError(damaged(path, str(error).splitlines()[0])) from None
        if reader.num_record_batches != len(shard.batch_rows):
            raise LabelStoreError(damaged(path, f"{reader.num_record_batches} record batches"))
        if not self._layout.reads(reader.schema):
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


def layout_of(manifest: Manifest, codec: Codec | None) -> Layout:
    if isinstance(manifest.encoding, Dense):
        return DenseLayout(manifest.encoding, len(manifest.source.labels))
    if isinstance(manifest.encoding, DensePositions | States):
        return PositionLayout(manifest.encoding.columns)
    assert codec is not None
    return PositionLayout(codec.columns)


def read_codec(folder: Path, manifest: Manifest) -> Codec | None:
    """The codec of a store of a language model's labels.

    Raises:
        LabelStoreError: what the encoding stores once is missing or damaged.
    """
    known = manifest.positions
    if isinstance(manifest.encoding, WITHOUT_CODEC) or known is None:
        return None
    tensors: dict[str, Tensor] = {}
    if known.codec_sha256 is not None:
        if reason := damaged_codec(folder, manifest):
            raise LabelStoreError(
                f"{folder / CODEC}: damaged ({reason}). No label can be read without it: run "
                f"potstill labels repair {folder}, then potstill label again, which makes all of them anew."
            )
        tensors = load_file(folder / CODEC)
    try:
        return load_codec(manifest.encoding, tensors, vocabulary=known.vocabulary, temperatures=known.temperatures)
    except KeyError as missing:
        raise LabelStoreError(
            f"{folder / MANIFEST}: labels of encoding {manifest.encoding.kind} need {missing} of {CODEC}, of which it "
            f"has no word. Run potstill labels repair {folder}, then potstill label again."
        ) from None


def read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
        recorded = (folder / f"{MANIFEST}.sha256").read_bytes().strip()
    except (FileNotFoundError, NotADirectoryError) as error:
        if not (path.exists() or any(folder.glob("shard-*.arrow"))):
            raise LabelStoreError(
                f"{folder}: not a complete label store (it has no manifest.json and no shards). Run potstill label, or "
                "give the folder of a store, such as RUN/label/teacher/logits."
            ) from None
        raise LabelStoreError(
            f"{folder}: not a complete label store ({Path(error.filename).name} is missing). Run potstill label."
        ) from None
    if hashlib.sha256(content).hexdigest().encode() != recorded:
        raise LabelStoreError(
            f"{path}: was changed after it was written. Run potstill labels repair {folder}, then potstill label "
            "again: shards that the stage's record knows are not made anew."
        )
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise LabelStoreError(
            f"{path}: not a manifest of this version ({where}: {first['msg'].removeprefix('Value error, ')}). Nothing "
            "was changed. Remove the folder and run potstill label, which makes all of it anew."
        ) from None
    if manifest.format not in READABLE:
        formats = " and ".join(map(str, READABLE))
        raise LabelStoreError(f"{path}: format {manifest.format}; this potstill reads formats {formats}.")
    return manifest


def damaged_shards(folder: Path) -> Iterator[tuple[ShardEntry, str]]:
    """Every shard whose file is missing or differs from its sha256, with the reason."""
    for shard in read_manifest(folder).shards:
        path = folder / shard.file
        if not path.is_file():
            yield shard, "missing"
        elif (found := file_digest(path)) != shard.sha256:
            yield shard, f"sha256 {found[:12]}, expected {shard.sha256[:12]}"


def damaged_codec(folder: Path, manifest: Manifest) -> str | None:
    """What is wrong with the part that is stored once for all rows; None where it is whole, or there is none."""
    expected = manifest.positions.codec_sha256 if manifest.positions else None
    if expected is None:
        return None
    if not (folder / CODEC).is_file():
        return "missing"
    found = file_digest(folder / CODEC)
    return None if found == expected else f"sha256 {found[:12]}, expected {expected[:12]}"


def batch_checksum(batch: pa.RecordBatch) -> str:
    """128 bits over the serialised record batch: ids, values and layout."""
    return hashlib.blake2b(memoryview(batch.serialize()), digest_size=16).hexdigest()


def content_digest(readers: Sequence[Any], layout: Layout) -> str:
    """The sum of a digest of each row, 256 bits: it does not depend on the order of work."""
    total = 0
    for reader in readers:
        for batch in range(reader.num_record_batches):
            records = reader.get_batch(batch)
            for identity, value_digest in zip(records.column("id").to_pylist(), layout.digests(records), strict=True):
                total += int.from_bytes(hashlib.sha256(json.dumps(identity).encode() + value_digest).digest())
    return f"{total % 2**256:064x}"


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
