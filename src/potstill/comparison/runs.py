"""The runs that are compared, as they lie on disk, and why some cannot be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from potstill.errors import RunDirError
from potstill.evaluation.kept_rows import ANSWERS, KeptRows, read_rows
from potstill.recipe.yaml_file import read_values
from potstill.records import EvaluateRecord, ExportRecord, GateRecord
from potstill.records.current import COMMANDED, begun_with, current, json_object
from potstill.run_dir import LOCK, Record, file_digest, fingerprint


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
    teacher: str
    """The digest of its teacher; of several, with how they answer as one."""
    recipe: Mapping[str, Any]
    processor: str | None
    """Where it was evaluated."""


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
    found = current(folder)
    evaluation = found.evaluation
    if "evaluate" in found.outdated:
        raise RunDirError(f"{folder}: its student is not the one that was evaluated; it is trained again. {again}")
    if evaluation is None:
        raise RunDirError(f"{folder}: not evaluated, or not by a version whose records this one reads. {again}")
    if ANSWERS not in evaluation.files:
        raise RunDirError(f"{folder}: evaluated by a version that kept no answers to single rows. {again}")
    export, rows = found.export, _kept(folder / "evaluate", evaluation)
    evaluated = begun_with(folder / "evaluate")
    # Evaluations from before kept neither; what the run was commanded with last can be another.
    recipe, environment = (
        folder / "evaluate" / name if name in evaluation.files else folder / name for name in COMMANDED
    )
    return ComparedRun(
        name=str(folder),
        evaluation=evaluation,
        rows=rows,
        forms=_forms(folder / "export", export, rows) if export is not None and ANSWERS in export.files else None,
        gate=found.gate,
        export=export,
        teacher=fingerprint([evaluated["models"]["teacher"], evaluated.get("several")]),
        recipe=read_values(recipe),
        processor=json_object(environment).get("processor"),
    )


def _forms(stage: Path, export: ExportRecord, rows: KeptRows) -> KeptRows:
    """What exported forms answered to these rows."""
    forms = _kept(stage, export)
    if list(forms.digests) != list(rows.digests):
        raise RunDirError(
            f"{stage / ANSWERS}: of other test rows than the evaluation, or in another order. Remove {stage}, and run "
            "its stage again."
        )
    return forms


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
