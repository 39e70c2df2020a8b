"""export: what is shipped, made from a student that passed and compared with it; skipped otherwise."""

from pathlib import Path

import numpy as np
import torch

from potstill.exporters import AnyExporter
from potstill.measure.speed import folder_bytes
from potstill.recipe import Recipe
from potstill.records import Artefact, ExportRecord, GateRecord, TrainRecord
from potstill.run_dir import RunDir, folder_files
from potstill.stages.common import Inputs
from potstill.tasks.text_classification import ask_for_logits
from potstill.teachers import FrozenTeacher
from potstill.training.engine import Engine

COMPARED_ROWS = 64


def export(
    run: RunDir, recipe: Recipe, inputs: Inputs, student: TrainRecord, verdict: GateRecord, engine: Engine
) -> ExportRecord:
    """The artefacts that the recipe lists, each checked against the student's answers."""
    depends = {
        "passed": verdict.passed,
        "student": student.digest,
        "export": [exporter.model_dump(mode="json") for exporter in recipe.export],
    }

    def work(folder: Path) -> ExportRecord:
        if not verdict.passed:
            return ExportRecord(skipped=True, artefacts=[])
        source = run.path("train/student/model")
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
    rows = recipe.task.encode(inputs.splits["test"].rows[:COMPARED_ROWS], inputs.tokenizer, inputs.labels)
    batch = rows.collate(range(len(rows.ids)))
    answers = []
    for path in (source, target):
        logits = FrozenTeacher(recipe.task.load_model(str(path)), engine.device, ask_for_logits)(batch).logits
        assert isinstance(logits, torch.Tensor)
        answers.append(logits.float().cpu().numpy())
    difference = float(np.abs(answers[0] - answers[1]).max())
    return Artefact(
        kind=exporter.kind,
        folder=f"export/{exporter.kind}",
        size_bytes=folder_bytes(target),
        max_logit_difference=difference,
        passed=difference == 0.0,
    )
