"""export: what is shipped, made from a student that passed and compared with it; skipped otherwise."""

from pathlib import Path

import numpy as np
from torch import Tensor

from potstill.exporters import AnyExporter
from potstill.measure.weights import saved_weights
from potstill.recipe import Recipe
from potstill.records import Artefact, ExportRecord, GateRecord, TrainRecord
from potstill.run_dir import RunDir, folder_files
from potstill.signals import Signals
from potstill.stages.common import Inputs
from potstill.stages.models import ModelFolder
from potstill.targets import HiddenTargets
from potstill.teachers import FrozenTeacher
from potstill.training.engine import Engine

COMPARED_ROWS = 64


def export(
    run: RunDir, recipe: Recipe, inputs: Inputs, student: TrainRecord, verdict: GateRecord, engine: Engine
) -> ExportRecord:
    """The artefacts that the recipe lists, each checked against the student's answers.

    Raises:
        ModelError: the student's files were changed since its training.
    """
    depends = {
        "passed": verdict.passed,
        "student": student.digest,
        "export": [exporter.model_dump(mode="json") for exporter in recipe.export],
    }

    def work(folder: Path) -> ExportRecord:
        if not verdict.passed:
            return ExportRecord(skipped=True, artefacts=[])
        source = run.path("train/student/model")
        ModelFolder(source, digest=student.digest).require_unchanged()
        artefacts = [_export(recipe, inputs, exporter, source, folder, engine) for exporter in recipe.export]
        files = {
            name: digest
            for artefact in artefacts
            for name, digest in folder_files(folder / artefact.kind, relative_to=folder).items()
        }
        return ExportRecord(skipped=False, artefacts=artefacts, files=files)

    return run.once("export", depends, ExportRecord, work)


def _export(
    recipe: Recipe, inputs: Inputs, exporter: AnyExporter, source: Path, folder: Path, engine: Engine
) -> Artefact:
    target = folder / exporter.kind
    exporter.export(source, target)
    rows = recipe.task.encode(inputs.splits["test"].rows[:COMPARED_ROWS], inputs.of_student.tokenizer, inputs.labels)
    batch = rows.collate(range(min(COMPARED_ROWS, len(rows.lengths))))
    answers = []
    for path in (source, target):
        outputs = FrozenTeacher(recipe.task.load_model(str(path)), engine.device, recipe.task.ask)(batch)
        answers.append(_logits(outputs).float().cpu().numpy())
    difference = float(np.abs(answers[0] - answers[1]).max())
    return Artefact(
        kind=exporter.kind,
        folder=f"export/{exporter.kind}",
        size_bytes=saved_weights(target).size_bytes,
        max_logit_difference=difference,
        passed=difference == 0.0,
    )


def _logits(outputs: Signals) -> Tensor:
    """The logits or numbers of the rows, or the logits of a language model's first trained tokens."""
    if outputs.mean is not None:
        return outputs.mean
    if outputs.logits is not None:
        return outputs.logits
    assert isinstance(outputs.target, HiddenTargets)
    return outputs.target.head.logits(outputs.target.hidden[:COMPARED_ROWS])
