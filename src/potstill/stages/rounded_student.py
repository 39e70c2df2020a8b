"""The student for an artefact that rounds its numbers: trained on with that rounding, on the same labels."""

from collections.abc import Mapping
from pathlib import Path

import torch

from potstill.exporters import AnyExporter
from potstill.exporters.rounding import with_rounded_weights
from potstill.losses import MixedLoss, SoftTargets
from potstill.recipe import Recipe
from potstill.records import AdaptRecord, GateRecord, TrainRecord
from potstill.run_dir import RunDir, file_digest, folder_files
from potstill.runtimes.folder import ModelFolder, model_digest
from potstill.schedules import Constant
from potstill.stages.criteria import kl_from_teacher, true_labels
from potstill.stages.inputs import Inputs
from potstill.stages.models import save_model
from potstill.stages.opened_teachers import Lessons, open_teachers
from potstill.training.batches import ShuffledRows
from potstill.training.engine import Engine
from potstill.training.loop import LAST_BITS, Job, fit
from potstill.training.metrics import METRICS

CHECKPOINTS = 4
"""Looks at the validation rows, of which the best counts."""


def rounded_name(exporter: AnyExporter) -> str:
    """Of the training for an artefact, below train/."""
    return f"rounded-{exporter.name}"


def train_rounded(
    run: RunDir,
    recipe: Recipe,
    inputs: Inputs,
    adapted: AdaptRecord,
    student: TrainRecord,
    lessons: Lessons,
    verdict: GateRecord,
    engine: Engine,
) -> Mapping[str, TrainRecord]:
    """By the name of its artefact, the student trained for each exporter that asks for it; none past a failed gate."""
    if not verdict.passed:
        return {}
    wanted = [exporter for exporter in recipe.export if exporter.distil is not None]
    return {each.name: _trained(run, recipe, inputs, adapted, student, lessons, engine, each) for each in wanted}


def _trained(
    run: RunDir,
    recipe: Recipe,
    inputs: Inputs,
    adapted: AdaptRecord,
    student: TrainRecord,
    lessons: Lessons,
    engine: Engine,
    exporter: AnyExporter,
) -> TrainRecord:
    assert exporter.distil is not None
    stage = f"train/{rounded_name(exporter)}"
    steps = exporter.distil.steps
    settings = recipe.train.model_copy(
        update={
            "learning_rate": exporter.distil.learning_rate,
            "evaluate_every": max(1, -(-steps // CHECKPOINTS)),
            "patience": None,
            "snapshots": (),
            "lora": None,
            "compiled": False,
        }
    )
    auto = {"train.precision": engine.precision("auto")}
    depends = {
        "student": student.digest,
        "teacher": adapted.digest,
        "labels": lessons.labels.content_digest,
        "mode": recipe.label.mode,
        "rounding": exporter.model_dump(mode="json"),
        "train": settings.model_dump(mode="json", exclude={"baseline", "trackers", "alpha"})
        | {"precision": engine.precision(settings.precision)},
        "data": {name: inputs.fingerprint_of(name) for name in ("train", "validation")},
        "task": recipe.task,
        "seed": recipe.seed,
    }

    def work(folder: Path) -> TrainRecord:
        rows, own = inputs.splits["train"].rows, inputs.of_student
        source = ModelFolder(run.path("train/student/model"), digest=student.digest)
        model = source.load(recipe.task)
        compared = recipe.task.compared_by_teacher
        teachers = open_teachers(run, recipe, inputs, lessons, engine, model, frozenset(), of_validation=compared)
        torch.manual_seed(recipe.seed)
        whole = Constant(value=1.0)
        job = Job(
            name=stage,
            model=model,
            batches=ShuffledRows(own.encoded(recipe, rows), settings, recipe.seed),
            validation=own.encoded(recipe, inputs.splits["validation"].rows),
            ask=recipe.task.ask,
            loss=MixedLoss([SoftTargets(weight=whole, temperature=whole).build()]),
            teacher=teachers.of_training,
            criterion=kl_from_teacher() if compared else true_labels(),
            validation_teacher=teachers.of_validation,
            total_steps=steps,
            seed=recipe.seed,
            settings=settings,
        )
        with with_rounded_weights(model, exporter.rounding(model)):
            done = fit(job, folder, engine, run.progress)
        save_model(model, own.tokenizer, folder / "model", engine)
        return TrainRecord(
            digest=model_digest(folder / "model"),
            initial_digest=student.digest,
            steps=done.step,
            planned_steps=steps,
            best_step=done.best_step,
            best_validation_loss=done.best_validation_loss,
            best_validation_accuracy=done.best_validation_accuracy,
            stopped_early=done.stopped_early,
            train_rows=len(rows),
            labelled_rows=0,
            files=folder_files(folder / "model", relative_to=folder) | {METRICS: file_digest(folder / METRICS)},
        )

    last_bits = [f"train.{name}" for name in LAST_BITS]
    return run.once(stage, depends, TrainRecord, work, together=True, last_bits=last_bits, auto=auto)
