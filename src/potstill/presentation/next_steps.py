"""What to do next: the last line of a command, for who uses it for the first time."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from potstill.records import ExportRecord, GateRecord

USUAL_NAME = "recipe"
"""How the recipe of a project is called, whose run directory is `run`; that of `recipe-full.yaml` is `run-full`."""


def after_check(recipe: Path, overrides: Sequence[str]) -> str:
    """The command that runs a recipe as it was checked; each recipe of a folder has a run directory of its own."""
    suffix = recipe.stem.removeprefix(USUAL_NAME) if recipe.stem.startswith(USUAL_NAME) else f"-{recipe.stem}"
    changes = [word for override in overrides for word in ("--set", override)]
    return shlex.join(["potstill", "run", str(recipe), "--out", str(recipe.parent / f"run{suffix}"), *changes])


def after_run(out: Path, gate: GateRecord, export: ExportRecord) -> str:
    """What to do with the student that passed, or after a gate that it failed."""
    if gate.weak_teacher is not None and not gate.passed:
        return "give a better teacher, or adapt it longer (adapt.epochs), then start the same command again"
    if not gate.passed:
        return (
            "read in the report what was missed; change the student, its training or the thresholds, and start the "
            "same command again: what the change does not concern is kept"
        )
    student = out / "train/student/model"
    if not export.artefacts:
        return f"the recipe exports nothing (export: []); the student itself lies in {student}"
    usable = [each for each in export.artefacts if each.passed]
    if not usable:
        return f"no artefact may be shipped as it is; the student itself lies in {student}"
    best = next((each for each in usable if each.name == export.smallest), usable[0])
    folder = out / best.folder
    ask = f"potstill predict {shlex.quote(str(folder))} rows.jsonl"
    if best.runtime == "transformers":
        return f"load {folder} with transformers, or ask it: {ask}"
    if best.runtime == "llama_cpp":
        return f"serve {folder} as its MODEL_CARD.md says, or ask it: {ask}"
    return f"ask {folder} with its predict.py, or: {ask}"
