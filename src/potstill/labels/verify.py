"""Whether a label store is what it was when it was finished: every file in its folder is accounted for."""

import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from potstill.errors import RunDirError
from potstill.labels.store import (
    CODEC,
    FITTED,
    MANIFEST,
    Manifest,
    ShardEntry,
    damaged_codec,
    damaged_shards,
    read_manifest,
)
from potstill.records import LabelRecord
from potstill.run_dir import INPUTS, RESULT, file_digest, fingerprint, read_record


def faults(folder: Path) -> Iterator[tuple[str, str]]:
    """Each file that is not as it was written, or that nobody wrote for this store, with what is wrong.

    Raises:
        LabelStoreError: there is no manifest to compare with, or it was changed.
    """
    manifest = read_manifest(folder)
    for shard, reason in damaged_shards(folder):
        yield shard.file, f"damaged ({reason})"
    if codec := damaged_codec(folder, manifest):
        yield CODEC, f"damaged ({codec})"
    known = {MANIFEST, f"{MANIFEST}.sha256", INPUTS, RESULT} | {shard.file for shard in manifest.shards}
    if manifest.positions is not None:
        known |= {FITTED} | ({CODEC} if manifest.positions.codec_sha256 else set())
        yield from _of_the_fit(folder, manifest)
    yield from _of_the_record(folder, manifest)
    beside = {f".{shard.file}.json": shard for shard in manifest.shards}
    for path in sorted(folder.iterdir()):
        if path.name in known:
            continue
        if path.name not in beside:
            yield path.name, "is no part of the store; remove it if you do not need it"
        elif not _is_entry(path, beside[path.name]):
            yield path.name, "damaged (not what the manifest says); nothing needs it any more, so remove it"


def _of_the_fit(folder: Path, manifest: Manifest) -> Iterator[tuple[str, str]]:
    assert manifest.positions is not None
    try:
        found = json.loads((folder / FITTED).read_bytes())
    except (OSError, ValueError):
        yield FITTED, "damaged (missing, or no JSON)"
        return
    written = manifest.model_dump(mode="json")
    positions = written["positions"]
    expected = {
        "encoding": written["encoding"],
        "errors": positions["errors"],
        "codec_sha256": positions["codec_sha256"],
    }
    if found != expected:
        yield FITTED, "damaged (not what the manifest says)"


def _of_the_record(folder: Path, manifest: Manifest) -> Iterator[tuple[str, str]]:
    """What the record of the stage and its inputs say, where the store is a stage's."""
    shards = {shard.file: shard.sha256 for shard in manifest.shards}
    known = manifest.positions
    if not (folder / RESULT).exists():
        return
    try:
        record = read_record(folder / RESULT, LabelRecord)
    except RunDirError:
        yield RESULT, "damaged (changed since it was written); remove it, and potstill label writes it again"
        return
    if record is None:
        yield RESULT, "damaged (no record of a label store)"
        return
    same = record.content_digest == manifest.content_digest and record.rows == manifest.rows
    if known is not None:
        same = same and (record.positions, record.errors) == (known.positions, known.errors)
    # The files were just compared with the manifest, the record is now.
    if not same or {name: record.files.get(name) for name in shards} != shards:
        yield RESULT, "damaged (it is of other labels than the manifest)"
    for name in record.files.keys() - shards.keys() - {CODEC, FITTED}:
        yield from _differs(folder, name, record.files[name])
    try:
        inputs = json.loads((folder / INPUTS).read_bytes())
        whole = fingerprint(inputs["inputs"]) == inputs["fingerprint"] == record.fingerprint
    except (OSError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        yield INPUTS, "damaged (not the inputs that the record is of)"


def _differs(folder: Path, name: str, expected: str) -> Iterator[tuple[str, str]]:
    if not (folder / name).is_file():
        yield name, "damaged (missing)"
    elif (found := file_digest(folder / name)) != expected:
        yield name, f"damaged (sha256 {found[:12]}, expected {expected[:12]} of the record)"


def _is_entry(path: Path, expected: ShardEntry) -> bool:
    try:
        return ShardEntry.model_validate_json(path.read_bytes()) == expected
    except (OSError, ValidationError):
        return False
