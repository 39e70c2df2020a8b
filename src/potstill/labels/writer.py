"""Writing a label store: a shard at a time, each whole or invisible, the manifest last.

Shards hold record batches that the plan fixed, so labels made after a kill are bitwise those of an
uninterrupted run: the batch that a row is computed in can change its last bits. Under another plan whole shards
stay, and what they lack is planned anew. Until the manifest is on disk, `.shard-00000.arrow.json` beside each shard
says that it is whole.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute
from pydantic import ValidationError
from safetensors.torch import save_file

from potstill.background import Background
from potstill.data.ids import Index, Keys
from potstill.errors import LabelStoreError
from potstill.labels.dense import Dense, DenseLayout, DensePositions
from potstill.labels.encodings import PositionEncoding
from potstill.labels.host import to_host
from potstill.labels.layout import Layout
from potstill.labels.positions import Codec, Column, PositionLayout
from potstill.labels.shards import OpenShard, PlannedShard, WritePlan, entry_of
from potstill.labels.states import States
from potstill.labels.store import (
    CODEC,
    FITTED,
    FORMAT,
    MANIFEST,
    LabelSource,
    Manifest,
    PositionLabels,
    ShardEntry,
    batch_checksum,
    content_digest,
    damaged_codec,
    damaged_shards,
    read_manifest,
)
from potstill.progress import Advance
from potstill.records import LabelFidelity, LabelRecord
from potstill.run_dir import RESULT, atomic_file, file_digest, read_record, write_text

_ENTRIES = ".shard-*.json"
_WAITING = 2
"""Answers that may wait to be written: the teacher goes on meanwhile, and memory holds no more of them than these."""

Ask = Callable[[Sequence[int]], Any]
"""From indices of rows to what the layout makes records of."""


@dataclass(frozen=True)
class Fitted:
    """An encoding that was fitted to a language model, with the error that it was found to have."""

    encoding: PositionEncoding
    codec: Codec
    vocabulary: int
    temperatures: tuple[float, ...]
    errors: tuple[LabelFidelity, ...]

    @property
    def columns(self) -> Mapping[str, Column]:
        return self.codec.columns


StoreEncoding = Dense | DensePositions | States | Fitted
"""An encoding with all that it takes to write labels in it."""


class StoreWriter:
    """Writes the shards that are missing, then the manifest."""

    def __init__(self, folder: Path, encoding: StoreEncoding, source: LabelSource) -> None:
        self.folder = folder
        self.source = source
        self.seconds = 0.0
        """Spent on writing so far, most of it while the teacher answered."""
        self._encoding = encoding
        self._layout: Layout = (
            DenseLayout(encoding, len(source.labels))
            if isinstance(encoding, Dense)
            else PositionLayout(encoding.columns)
        )

    def write(
        self,
        ids: Sequence[str],
        batches: Sequence[Sequence[int]],
        batches_per_shard: int,
        ask: Ask,
        advance: Advance,
    ) -> Manifest:
        """Ask the teacher for every row that no whole shard holds yet, and complete the store.

        `batches` are indices into `ids`; `ask` returns their answer: logits for dense labels, and for positions the
        number of them in each row with their columns. `advance` hears of rows done. Whole shards stay whatever the
        batches were that they were made in, and the rest of the rows is asked about in these.

        Raises:
            LabelStoreError: a duplicate id or a non-finite logit; what was written before stays.
        """
        plan = self.plan(ids, batches, batches_per_shard)
        advance(plan.rows_held, earlier=True)
        written = self.write_shards(plan.missing, ids, ask, advance)
        return self.complete([*plan.whole, *written])

    def plan(self, ids: Sequence[str], batches: Sequence[Sequence[int]], batches_per_shard: int) -> WritePlan:
        """Which shards are whole, and which are to be written; removes what is left of others.

        Raises:
            LabelStoreError: a duplicate id.
        """
        index = Index(Keys(ids))
        if index.first_repeated() is not None:
            raise LabelStoreError("duplicate ids: labels are found by id, so each row needs one of its own")
        held = np.zeros(len(ids), dtype=np.bool_)
        whole = tuple(self._whole_shards(index, held))
        left = [[row for row in batch if not held[row]] for batch in batches]
        left = [batch for batch in left if batch]
        taken = {entry.file for entry in whole}
        names = (name for name in map("shard-{:05d}.arrow".format, count()) if name not in taken)
        # Under an unchanged plan the gaps are those of whole shards, which are made anew as they were.
        missing = tuple(
            PlannedShard(next(names), left[start : start + batches_per_shard])
            for start in range(0, len(left), batches_per_shard)
        )
        return WritePlan(whole, int(held.sum()), missing)

    def _whole_shards(self, index: Index, held: npt.NDArray[np.bool_]) -> Iterator[ShardEntry]:
        """The shards that were written whole and hold rows of these alone, each once; marks their rows as held.

        What is left of others is removed, so that nothing lies in the store that its manifest does not tell of.
        """
        known = _entries(self.folder)
        for path in sorted(self.folder.glob("shard-*.arrow")):
            entry = known.get(path.name)
            rows = self._rows(path, index) if entry is not None and _is_whole(path, entry.sha256) else None
            if entry is None or rows is None or held[rows].any() or len(set(rows)) < len(rows):
                path.unlink()
                continue
            held[rows] = True
            # Of a store that was complete: its manifest is about to be written again.
            _write_entry(self.folder, entry)
            yield entry

    def _rows(self, path: Path, index: Index) -> list[int] | None:
        """The numbers of the rows of a shard; None if one of them is not among the rows to label."""
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        if not self._layout.reads(reader.schema):
            return None
        batches = (reader.get_batch(number).column("id").to_pylist() for number in range(reader.num_record_batches))
        rows = [index.find(identity) for batch in batches for identity in batch]
        return None if None in rows else [row for row in rows if row is not None]

    def write_shard(self, shard: PlannedShard, ids: Sequence[str], ask: Ask, advance: Advance) -> ShardEntry:
        """Ask the teacher for the rows of a shard and write it, whole or not at all.

        Raises:
            LabelStoreError: a non-finite logit.
        """
        return self.write_shards([shard], ids, ask, advance)[0]

    def write_shards(
        self, shards: Sequence[PlannedShard], ids: Sequence[str], ask: Ask, advance: Advance
    ) -> list[ShardEntry]:
        """Ask the teacher for the rows of these shards, one after the other, and write each whole or not at all.

        What was answered is written beside the teacher, which goes on with the next rows.

        Raises:
            LabelStoreError: a non-finite logit.
        """
        entries: list[ShardEntry] = []
        opened: list[OpenShard] = []

        def close(shard: OpenShard) -> int:
            entries.append(shard.close())
            _write_entry(self.folder, entries[-1])
            return 0

        def tell(rows: Sequence[int]) -> None:
            for each in filter(None, rows):
                advance(each)

        try:
            with Background[int](waiting=_WAITING) as behind:
                for planned in shards:
                    opened.append(OpenShard(self.folder / planned.file, self._layout))
                    for batch in planned.batches:
                        arrived = to_host(ask(batch))
                        tell(behind.do(partial(opened[-1].add, [ids[row] for row in batch], arrived)))
                    tell(behind.do(partial(close, opened[-1])))
                tell(behind.finish())
        finally:
            for shard in opened:
                shard.discard()
                self.seconds += shard.seconds
        return entries

    def complete(self, shards: Sequence[ShardEntry]) -> Manifest:
        """Write the manifest, which vouches for these shards."""
        entries = sorted(shards, key=lambda entry: entry.file)
        readers = [pa.ipc.open_file(pa.memory_map(str(self.folder / entry.file))) for entry in entries]
        encoding = self._encoding
        manifest = Manifest(
            format=FORMAT,
            encoding=encoding.encoding if isinstance(encoding, Fitted) else encoding,
            source=self.source,
            positions=self._positions(encoding, readers) if isinstance(encoding, Fitted) else None,
            rows=sum(entry.rows for entry in entries),
            content_digest=content_digest(readers, self._layout),
            shards=tuple(entries),
        )
        path = self.folder / MANIFEST
        write_text(path.with_suffix(".json.sha256"), "")
        write_text(path, manifest.model_dump_json(indent=1) + "\n")
        write_text(path.with_suffix(".json.sha256"), file_digest(path) + "\n")
        # Now the manifest vouches for the shards.
        for beside in self.folder.glob(_ENTRIES):
            beside.unlink()
        return manifest

    def _positions(self, fitted: Fitted, readers: Sequence[pa.ipc.RecordBatchFileReader]) -> PositionLabels:
        """What a store of positions has beside its rows; writes the part that is stored once."""
        there = (self.folder / CODEC).exists()
        digest = file_digest(self.folder / CODEC) if there else write_codec(self.folder, fitted.codec)
        return PositionLabels(
            vocabulary=fitted.vocabulary,
            temperatures=fitted.temperatures,
            codec_sha256=digest,
            positions=_positions_in(readers),
            errors=fitted.errors,
        )


def stored_positions(folder: Path, manifest: Manifest) -> int:
    """How many positions a store of positions has labels of."""
    return _positions_in([pa.ipc.open_file(pa.memory_map(str(folder / entry.file))) for entry in manifest.shards])


def _positions_in(readers: Sequence[pa.ipc.RecordBatchFileReader]) -> int:
    return sum(
        pa.compute.sum(reader.get_batch(batch).column("positions")).as_py()
        for reader in readers
        for batch in range(reader.num_record_batches)
    )


def write_codec(folder: Path, codec: Codec) -> str | None:
    """Write what an encoding stores once for all rows; its sha256, or None where there is nothing."""
    if not codec.tensors:
        return None
    with atomic_file(folder / CODEC, private=True) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in codec.tensors.items()}, temporary)
    return file_digest(folder / CODEC)


def repair(folder: Path) -> list[str]:
    """Remove the damaged shards of a store, so that labelling makes just these anew; returns their names.

    A damaged codec takes all shards with it: they cannot be read without the one that they were written with.

    A changed manifest is removed, where the record of the stage knows the shards.

    Raises:
        LabelStoreError: the manifest itself is missing or changed, so that nothing tells which shards are whole; or it
            names what is no shard.
    """
    if _manifest_was_changed(folder):
        entries, bad = _entries_of_record(folder), {MANIFEST}
        if not entries and not (folder / f"{MANIFEST}.sha256").read_bytes().strip():
            raise LabelStoreError(f"{folder / MANIFEST}: was being written. Run potstill label, which completes it.")
        if not entries:
            raise LabelStoreError(
                f"{folder / MANIFEST}: was changed after it was written, and no record of the stage tells which shards "
                f"are whole. Remove {folder} and run potstill label, which makes all of it anew."
            )
    else:
        manifest = read_manifest(folder)
        entries = {entry.file: entry for entry in manifest.shards}
        bad = {shard.file for shard, _ in damaged_shards(folder)}
        if damaged_codec(folder, manifest):
            bad |= {*entries, CODEC, FITTED}
    if bad:
        for entry in entries.values():
            if entry.file not in bad:
                _write_entry(folder, entry)
        # The record goes first: without it the label stage runs again and finds the whole shards.
        for name in (RESULT, MANIFEST, *sorted(bad), *(f".{name}.json" for name in sorted(bad))):
            (folder / name).unlink(missing_ok=True)
    return sorted(bad)


def forget_shards(folder: Path) -> None:
    """Make all shards of a store unknown, so that they are made anew."""
    (folder / MANIFEST).unlink(missing_ok=True)
    for beside in folder.glob(_ENTRIES):
        beside.unlink()


def describe(folder: Path) -> Iterator[tuple[str, str]]:
    """Lines for `potstill labels inspect`."""
    manifest = read_manifest(folder)
    files = [folder / name for name in (CODEC, *(shard.file for shard in manifest.shards))]
    size = sum(path.stat().st_size for path in files if path.exists())
    yield "rows", f"{manifest.rows:,}"
    yield "encoding", json.dumps(manifest.encoding.model_dump())
    known = manifest.positions
    if isinstance(manifest.encoding, States):
        yield "layers", ", ".join(state.column for state in manifest.encoding.states)
    elif known is None:
        yield "classes", str(len(manifest.source.labels))
        yield "temperatures", "every temperature (all logits are stored)"
    else:
        yield "vocabulary", f"{known.vocabulary:,}"
        yield "positions", f"{known.positions:,}"
        yield "temperatures", ", ".join(f"{temperature:g}" for temperature in known.temperatures)
        for error in known.errors:
            kl = "" if error.kl is None else f"KL(p || stored) {error.kl:.4f}, "
            yield f"error at T={error.temperature:g}", f"{kl}distance {error.distance:.4f}"
    yield "shards", str(len(manifest.shards))
    yield "size_bytes", f"{size:,}"
    yield "content_digest", manifest.content_digest
    yield "teacher", manifest.source.teacher
    yield "tokenizer", manifest.source.tokenizer
    yield "data", manifest.source.data


def _write_entry(folder: Path, entry: ShardEntry) -> None:
    write_text(folder / f".{entry.file}.json", entry.model_dump_json())


def _entries(folder: Path) -> Mapping[str, ShardEntry]:
    """What is known of the shards of a store, by their names: of the manifest if it was complete, else beside them.

    Raises:
        LabelStoreError: the manifest was changed.
    """
    # Without its digest a manifest was being written, and all entries lie beside the shards.
    digest = folder / f"{MANIFEST}.sha256"
    complete = (folder / MANIFEST).exists() and digest.exists() and digest.read_bytes().strip()
    entries = {entry.file: entry for entry in read_manifest(folder).shards} if complete else {}
    for path in folder.glob(_ENTRIES):
        try:
            entry = ShardEntry.model_validate_json(path.read_bytes())
        except ValidationError:
            continue
        entries[entry.file] = entry
    return entries


def _manifest_was_changed(folder: Path) -> bool:
    """Whether it is not what its digest is of, or what the record of the stage is of."""
    path, digest = folder / MANIFEST, folder / f"{MANIFEST}.sha256"
    if not path.is_file() or not digest.is_file():
        return False
    found, record = file_digest(path), read_record(folder / RESULT, LabelRecord)
    recorded = found if record is None else record.files.get(MANIFEST, found)
    return found.encode() != digest.read_bytes().strip() or found != recorded


def _entries_of_record(folder: Path) -> dict[str, ShardEntry]:
    """The shards, and what the record of their stage says of them, by name; none where their codec is not whole."""
    record = read_record(folder / RESULT, LabelRecord)
    files = {} if record is None else record.files
    if CODEC in files and not _is_whole(folder / CODEC, files[CODEC]):
        return {}
    entries = {}
    for path in sorted(folder.glob("shard-*.arrow")):
        if _is_whole(path, files.get(path.name, "")):
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
            entries[path.name] = entry_of(
                path, [len(each) for each in batches], [batch_checksum(each) for each in batches]
            )
    return entries


def _is_whole(path: Path, sha256: str) -> bool:
    return path.is_file() and file_digest(path) == sha256
