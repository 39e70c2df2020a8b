"""export: what is shipped, made from a student that passed and compared with it; skipped otherwise."""

from pathlib import Path

import numpy as np

from potstill.exporters import AnyExporter
from potstill.recipe import Recipe
from potstill.records import Artefact, ExportRecord, GateRecord, TrainRecord
from potstill.run_dir import RunDir, folder_files
from potstill.runtimes.folder import ModelFolder
from potstill.runtimes.predictor import open_predictor
from potstill.stages.inputs import Inputs
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
    tokenizer = inputs.of_student.tokenizer
    rows = recipe.task.encode(inputs.splits["test"].rows[:COMPARED_ROWS], tokenizer, inputs.labels)
    batch = rows.collate(range(min(COMPARED_ROWS, len(rows.lengths))))
    logits = [
        open_predictor(
            ModelFolder(path),
            task=recipe.task,
            tokenizer=tokenizer,
            device=engine.device,
            batch_size=COMPARED_ROWS,
            runtime=runtime,
        )
        .first_logits(batch, COMPARED_ROWS)
        .float()
        .cpu()
        .numpy()
        for path, runtime in ((source, "transformers"), (target, exporter.runtime))
    ]
    difference = float(np.abs(logits[0] - logits[1]).max())
    return Artefact(
        kind=exporter.kind,
        folder=f"export/{exporter.kind}",
        size_bytes=exporter.size_bytes(target),
        max_logit_difference=difference,
        passed=difference <= exporter.tolerance,
    )
