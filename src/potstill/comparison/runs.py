"""The runs that are compared, as they lie on disk, and why some cannot be."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from potstill.errors import RunDirError
from potstill.evaluation.kept_rows import ANSWERS, KeptRows, read_rows
from potstill.recipe.yaml_file import read_values
from potstill.records import AdaptRecord, EvaluateRecord, ExportRecord, GateRecord, TrainRecord
from potstill.run_dir import INPUTS, LOCK, RESULT, Record, file_digest, fingerprint, read_record


@dataclass(frozen=True)
class ComparedRun:
    """What is compared of a run."""

    name: str
    """Its folder, as it was given."""
    evaluation: EvaluateRecord
    rows: KeptRows
    forms: KeptRows | None
    """What exported forms answered, where they were judged by themselves."""
    gate: GateRecord | None
    export: ExportRecord | None
    """These two are None where they are not of this evaluation."""
    teacher: str | None
    """The digest of its teacher."""
    recipe: Mapping[str, Any]
    processor: str | None


def read_runs(folders: Sequence[Path]) -> list[ComparedRun]:
    """The runs in these folders, all with their rows in the order of the first.

    Raises:
        RunDirError: one is none, was not evaluated or kept no answers, is there twice, or is not of the same test rows.
    """
    for number, folder in enumerate(folders):
        if folder.resolve() in [other.resolve() for other in folders[:number]]:
            raise RunDirError(f"{folder}: given twice. A run is compared with others: give each once.")
    first, *others = [_read(folder) for folder in folders]
    return [first, *(_on_the_rows_of(first, other) for other in others)]


def _read(folder: Path) -> ComparedRun:
    if not (folder / LOCK).is_file():
        what = "no run directory" if folder.exists() else "not there"
        raise RunDirError(f"{folder}: {what}. Give folders that runs had as their --out.")
    again = f"Run: potstill evaluate RECIPE --out {folder}"
    evaluation = read_record(folder / "evaluate" / RESULT, EvaluateRecord)
    if evaluation is None:
        raise RunDirError(f"{folder}: not evaluated, or not by a version whose records this one reads. {again}")
    if ANSWERS not in evaluation.files:
        raise RunDirError(f"{folder}: evaluated by a version that kept no answers to single rows. {again}")
    student = read_record(folder / "train/student" / RESULT, TrainRecord)
    if student is None or student.digest != _inputs(folder / "evaluate").get("models", {}).get("student"):
        raise RunDirError(f"{folder}: its student is not the one that was evaluated; it is trained again. {again}")
    gate = read_record(folder / "gate" / RESULT, GateRecord)
    if gate is not None and _inputs(folder / "gate").get("evaluation") != fingerprint(evaluation):
        gate = None
    export = None if gate is None else read_record(folder / "export" / RESULT, ExportRecord)
    if export is not None and not export.skipped and not _is_of(folder / "export", evaluation):
        export = None
    adapted = read_record(folder / "adapt" / RESULT, AdaptRecord)
    return ComparedRun(
        name=str(folder),
        evaluation=evaluation,
        rows=_kept(folder / "evaluate", evaluation),
        forms=_kept(folder / "export", export) if export is not None and ANSWERS in export.files else None,
        gate=gate,
        export=export,
        teacher=None if adapted is None else adapted.digest,
        recipe=read_values(folder / "recipe.yaml"),
        processor=_json(folder / "environment.json").get("processor"),
    )


def _is_of(stage: Path, evaluation: EvaluateRecord) -> bool:
    return bool(_inputs(stage).get("evaluation") == fingerprint(evaluation))


def _inputs(stage: Path) -> dict[str, Any]:
    """What a stage was begun with."""
    found = _json(stage / INPUTS).get("inputs")
    return found if isinstance(found, dict) else {}


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _kept(stage: Path, record: Record) -> KeptRows:
    """The answers that a stage kept, which are those that it recorded."""
    path = stage / ANSWERS
    if not path.is_file() or file_digest(path) != record.files[ANSWERS]:
        state = "changed since it was written" if path.exists() else "not there"
        raise RunDirError(f"{path}: {state}. Restore it, or remove {stage}, and run its stage again.")
    return read_rows(path)


def _on_the_rows_of(first: ComparedRun, other: ComparedRun) -> ComparedRun:
    """The other run with its rows in the order of the first's."""
    both = f"{first.name} and {other.name}"
    one, two = first.rows, other.rows
    if one.kind != two.kind:
        raise RunDirError(
            f"{both}: not of the same task: models of the first answer with {_ANSWERS[one.kind]}, and those of the "
            f"second with {_ANSWERS[two.kind]}. Compare runs of one task."
        )
    if set(one.digests) != set(two.digests):
        raise RunDirError(
            f"{both}: not the same test rows: {_difference(one, two)}. Evaluate both with the same data.test."
        )
    if list(one.digests) == list(two.digests):
        return other
    place_of = {digest: place for place, digest in enumerate(two.digests)}
    places = np.array([place_of[digest] for digest in one.digests])
    return replace(other, rows=two.of(places), forms=None if other.forms is None else other.forms.of(places))


_ANSWERS = {
    "single_label": "one class for each text",
    "multi_label": "any number of labels for each text",
    "regression": "a number for each text",
    "tags": "a tag for each word",
    "text": "text after a prompt",
    "target": "a target for each source",
}


def _difference(one: KeptRows, two: KeptRows) -> str:
    """How test rows differ, by their ids and by what they hold."""
    known = dict(zip(two.ids, two.digests, strict=True))
    alone = [identity for identity in one.ids if identity not in known]
    other = len(known) - (len(one.ids) - len(alone))
    changed = [
        identity
        for identity, digest in zip(one.ids, one.digests, strict=True)
        if identity in known and known[identity] != digest
    ]
    parts = []
    if alone or other:
        parts.append(
            f"of {len(one.ids):,} and {len(two.ids):,} rows, {len(alone):,} are only in the first and "
            f"{other:,} only in the second"
        )
    if changed:
        parts.append(f"{len(changed):,} have the same id and another text or label, such as {changed[0]!r}")
    return "; ".join(parts)
