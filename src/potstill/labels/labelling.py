"""Labelling: rows once through a teacher into a store, and the record of what was stored.

Who is asked, what a row is and what is stored of the outputs are arguments. The batches are planned before anybody is
asked, from the rows alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from potstill.data.batches import batches_by_length
from potstill.data.encoded import Encoded
from potstill.labels.dense import Dense
from potstill.labels.positions import bytes_per_position
from potstill.labels.row_encoders import RowEncoder
from potstill.labels.store import CODEC, FITTED, MANIFEST, LabelSource, Manifest
from potstill.labels.writer import Fitted, StoreEncoding, StoreWriter, stored_positions
from potstill.measure.laps import Laps
from potstill.progress import Advance
from potstill.records import LabelRecord
from potstill.run_dir import file_digest
from potstill.signals import Batch

Outputs = TypeVar("Outputs")


@dataclass(frozen=True)
class Labelled:
    """A store that is complete."""

    manifest: Manifest
    rows_asked: int
    """Rows that the teacher was asked about now; of a store that was begun before, not all."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """What that time went into: `collate`, `forward`, `encode`, and `write`, which is done beside the others."""


@torch.inference_mode()
def label_rows(
    folder: Path,
    rows: Encoded,
    forward: Callable[[Batch], Outputs],
    encoder: RowEncoder[Outputs],
    source: LabelSource,
    *,
    batch_size: int,
    batches_per_shard: int,
    advance: Advance,
) -> Labelled:
    """Store the labels of all rows, of which those in whole shards are not asked about again.

    `forward` gives a teacher's outputs for a batch, of which `encoder` makes labels.

    Raises:
        LabelStoreError: two rows with one id, or a number that is not finite; what was written before stays.
    """
    asked, laps = 0, Laps()

    def labels_of(indices: Sequence[int]) -> Any:
        nonlocal asked
        asked += len(indices)
        with laps.lap("collate"):
            batch = rows.collate(indices).pinned()
        with laps.lap("forward"):
            outputs = forward(batch)
        with laps.lap("encode"):
            return encoder.encode(outputs, batch)

    plan = batches_by_length(rows.lengths, batch_size)
    writer = StoreWriter(folder, encoder.encoding, source)
    manifest = writer.write(rows.ids, plan, batches_per_shard, labels_of, advance)
    return Labelled(manifest, asked, {**laps.seconds, "write": round(writer.seconds, 3)} if asked else {})


def record_of(
    folder: Path,
    labelled: Labelled,
    encoding: StoreEncoding,
    *,
    seconds: float,
    before: Mapping[str, float] | None = None,
) -> LabelRecord:
    """The record of a store that took so long: its size, its files with their digests, its rate.

    `before` is what was spent before the first row was labelled, such as on loading the teacher.
    """
    manifest = labelled.manifest
    names = [MANIFEST, f"{MANIFEST}.sha256", *(shard.file for shard in manifest.shards)]
    names += [CODEC] if (folder / CODEC).exists() else []
    fitted = [FITTED] if (folder / FITTED).exists() else []
    columns = None if isinstance(encoding, Dense) else encoding.columns
    return LabelRecord(
        rows=manifest.rows,
        content_digest=manifest.content_digest,
        size_bytes=sum((folder / name).stat().st_size for name in names),
        rows_per_s=round(labelled.rows_asked / seconds, 1) if seconds else 0.0,
        positions=None if columns is None else stored_positions(folder, manifest),
        bytes_per_position=None if columns is None else bytes_per_position(columns),
        errors=encoding.errors if isinstance(encoding, Fitted) else (),
        seconds_of={**(before or {}), **labelled.seconds},
        files={name: file_digest(folder / name) for name in [*names, *fitted]},
    )
