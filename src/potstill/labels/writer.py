"""Writing a label store: a shard at a time, each whole or invisible, the manifest last.

Shards hold record batches that the plan fixed, so labels made after a kill are bitwise those of an
uninterrupted run: the batch that a row is computed in can change its last bits.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
from pydantic import ValidationError
from safetensors.torch import save_file

from potstill.data.ids import Index, Keys
from potstill.errors import LabelStoreError
from potstill.labels.dense import Dense, DenseLayout, DensePositions
from potstill.labels.encodings import PositionEncoding
from potstill.labels.layout import Layout
from potstill.labels.positions import Codec, PositionLayout
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
from potstill.records import LabelFidelity
from potstill.run_dir import RESULT, atomic_file, file_digest, write_text

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


class StoreWriter:
    """Writes the shards that are missing, then the manifest."""

    def __init__(self, folder: Path, encoding: Dense | DensePositions | States | Fitted, source: LabelSource) -> None:
        self.folder = folder
        self.source = source
        self._encoding = encoding
        self._layout: Layout
        match encoding:
            case Dense():
                self._layout = DenseLayout(encoding, len(source.labels))
            case DensePositions() | States():
                self._layout = PositionLayout(encoding.columns)
            case Fitted():
                self._layout = PositionLayout(encoding.codec.columns)

    def write(
        self,
        ids: Sequence[str],
        batches: Sequence[Sequence[int]],
        batches_per_shard: int,
        ask: Ask,
        advance: Callable[[int], None],
    ) -> Manifest:
        """Ask the teacher for every batch of rows that no whole shard holds yet, and complete the store.

        `batches` are indices into `ids`; `ask` returns their answer: logits for dense labels, and for positions the
        number of them in each row with their columns. `advance` hears of rows done.

        Raises:
            LabelStoreError: a duplicate id or a non-finite logit; what was written before stays.
        """
        if Index(Keys(ids)).first_repeated() is not None:
            raise LabelStoreError("duplicate ids: labels are found by id, so each row needs one of its own")
        entries = []
        for number, start in enumerate(range(0, len(batches), batches_per_shard)):
            plan = batches[start : start + batches_per_shard]
            name = f"shard-{number:05d}.arrow"
            expected = [[ids[row] for row in batch] for batch in plan]
            entry = self._finished(name, expected)
            if entry is None:
                entry = self._write_shard(name, plan, ids, ask, advance)
            else:
                advance(entry.rows)
            entries.append(entry)
        return self._complete(entries)

    def _write_shard(
        self,
        name: str,
        plan: Sequence[Sequence[int]],
        ids: Sequence[str],
        ask: Ask,
        advance: Callable[[int], None],
    ) -> ShardEntry:
        checksums = []
        path = self.folder / name
        with (
            atomic_file(path, private=True) as temporary,
            pa.OSFile(str(temporary), "wb") as sink,
            pa.ipc.new_file(sink, self._layout.schema) as writer,
        ):
            for batch in plan:
                records = self._layout.records([ids[row] for row in batch], ask(batch))
                writer.write_batch(records)
                checksums.append(batch_checksum(records))
                advance(len(batch))
        rows = [len(batch) for batch in plan]
        entry = ShardEntry(
            file=name,
            rows=sum(rows),
            sha256=file_digest(path),
            batch_rows=tuple(rows),
            batch_checksums=tuple(checksums),
        )
        write_text(_entry_path(self.folder, name), entry.model_dump_json())
        return entry

    def _finished(self, name: str, expected: list[list[str]]) -> ShardEntry | None:
        """The entry of a shard that was written whole under this plan, else None."""
        path = self.folder / name
        try:
            entry = ShardEntry.model_validate_json(_entry_path(self.folder, name).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
        if not path.is_file() or file_digest(path) != entry.sha256:
            return None
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        stored = [reader.get_batch(i).column("id").to_pylist() for i in range(reader.num_record_batches)]
        return entry if stored == expected else None

    def _complete(self, entries: list[ShardEntry]) -> Manifest:
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
        return manifest

    def _positions(self, fitted: Fitted, readers: Sequence[pa.ipc.RecordBatchFileReader]) -> PositionLabels:
        """What a store of positions has beside its rows; writes the part that is stored once."""
        there = (self.folder / CODEC).exists()
        digest = file_digest(self.folder / CODEC) if there else write_codec(self.folder, fitted.codec)
        counts = [
            pa.compute.sum(reader.get_batch(batch).column("positions")).as_py()
            for reader in readers
            for batch in range(reader.num_record_batches)
        ]
        return PositionLabels(
            vocabulary=fitted.vocabulary,
            temperatures=fitted.temperatures,
            codec_sha256=digest,
            positions=sum(counts),
            errors=fitted.errors,
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

    Raises:
        LabelStoreError: the manifest itself is missing or changed, so that nothing tells which shards are whole.
    """
    manifest = read_manifest(folder)
    bad = {shard.file for shard, _ in damaged_shards(folder)}
    if damaged_codec(folder, manifest):
        bad |= {shard.file for shard in manifest.shards} | {CODEC, FITTED}
    if bad:
        for entry in manifest.shards:
            if entry.file not in bad:
                write_text(_entry_path(folder, entry.file), entry.model_dump_json())
        # The record goes first: without it the label stage runs again and finds the whole shards.
        for name in (RESULT, MANIFEST, *sorted(bad), *(f".{name}.json" for name in sorted(bad))):
            (folder / name).unlink(missing_ok=True)
    return sorted(bad)


def describe(folder: Path) -> Iterator[tuple[str, str]]:
    """Lines for `potstill labels inspect`."""
    manifest = read_manifest(folder)
    size = sum((folder / shard.file).stat().st_size for shard in manifest.shards if (folder / shard.file).exists())
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


def _entry_path(folder: Path, name: str) -> Path:
    return folder / f".{name}.json"
