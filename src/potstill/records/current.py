"""What the records of a run say of the student that lies in it: a later training outdates those of the one before."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from potstill.records.evaluation import EvaluateRecord
from potstill.records.stages import ExportRecord, GateRecord, TrainRecord
from potstill.run_dir import INPUTS, RESULT, fingerprint, read_record

COMMANDED = ("recipe.yaml", "environment.json")
"""What a run was commanded with last, and where. The evaluation keeps them as they were at its own time."""


@dataclass(frozen=True)
class Current:
    """What was found of a student; None where there is no record of it, or one of another student or evaluation."""

    student: TrainRecord | None
    evaluation: EvaluateRecord | None
    gate: GateRecord | None
    export: ExportRecord | None
    outdated: tuple[str, ...]
    """The stages whose records are of another student or evaluation."""


def current(run: Path) -> Current:
    """What the records of a run say of the student that lies in it now.

    Raises:
        RunDirError: a record was changed since it was written.
    """
    student = read_record(run / "train/student" / RESULT, TrainRecord)
    evaluation = read_record(run / "evaluate" / RESULT, EvaluateRecord)
    gate = read_record(run / "gate" / RESULT, GateRecord)
    export = read_record(run / "export" / RESULT, ExportRecord)
    outdated = []
    if evaluation is not None and (student is None or student.digest != evaluated_models(run).get("student")):
        evaluation = None
        outdated.append("evaluate")
    if gate is not None and not _is_of(run / "gate", evaluation):
        gate = None
        outdated.append("gate")
    # What was skipped was not about any evaluation.
    if export is not None and not export.skipped and not _is_of(run / "export", evaluation):
        export = None
        outdated.append("export")
    return Current(student, evaluation, gate, export if gate is not None else None, tuple(outdated))


def evaluated_models(run: Path) -> dict[str, str]:
    """The digests of the models that were evaluated last, by name."""
    found = begun_with(run / "evaluate").get("models")
    return found if isinstance(found, dict) else {}


def _is_of(stage: Path, evaluation: EvaluateRecord | None) -> bool:
    return evaluation is not None and bool(begun_with(stage).get("evaluation") == fingerprint(evaluation))


def begun_with(stage: Path) -> dict[str, Any]:
    """The inputs of a stage; none where they cannot be read."""
    found = json_object(stage / INPUTS).get("inputs")
    return found if isinstance(found, dict) else {}


def json_object(path: Path) -> dict[str, Any]:
    """What a file of JSON holds; nothing where it is none."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
