"""train: the student from stored labels, and the baseline, the same student from hard labels alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from potstill.data.rows import labelled_rows, rows_fingerprint
from potstill.labels import LabelStore, StoredFeatures, StoredTeacher
from potstill.losses import AnyLoss, HardLabels, MixedLoss, SoftTargets
from potstill.recipe import Recipe, TrainSettings
from potstill.records import AdaptRecord, LabelRecord, TrainRecord
from potstill.run_dir import RunDir, fingerprint, folder_files
from potstill.schedules import Constant
from potstill.signals import Read, Teacher
from potstill.stages.common import Inputs, load_teacher, model_digest, save_model, true_labels
from potstill.stages.label import STORE, label_source
from potstill.stages.label_features import STORE as FEATURES
from potstill.stages.plan import shapes_of, total_steps
from potstill.students import Copy, copy_from_teacher, student_config
from potstill.tasks import CausalLM
from potstill.teachers import FrozenTeacher, JoinedTeacher
from potstill.training.engine import Engine
from potstill.training.loop import Job, fit, no_teacher
from potstill.training.metrics import open_trackers


@dataclass(frozen=True)
class Teachers:
    """Who speaks of the rows of a training, and of those that its checkpoints are judged on."""

    of_training: Teacher = no_teacher
    of_validation: Teacher = no_teacher


@dataclass(frozen=True)
class Member:
    """What the trainings of student and baseline differ in."""

    name: Literal["student", "baseline"]
    rows: Sequence[Any]
    losses: Sequence[AnyLoss]
    settings: TrainSettings
    open_teachers: Callable[[frozenset[Read]], "Teachers"]
    """Opened when training starts, with the features that the losses read."""
    criterion: MixedLoss
    """What its checkpoints are compared by."""
    depends: Mapping[str, object] = field(default_factory=dict)


def train_student(
    run: RunDir,
    recipe: Recipe,
    inputs: Inputs,
    adapted: AdaptRecord,
    labels: LabelRecord,
    features: LabelRecord | None,
    engine: Engine,
) -> TrainRecord:
    """The distilled student."""
    language = isinstance(recipe.task, CausalLM)

    def teachers(reads: frozenset[Read]) -> Teachers:
        speaks = _distributions(run, recipe, inputs, adapted, engine)
        validates = speaks if language else no_teacher
        if not reads:
            return Teachers(speaks, validates)
        if recipe.label.features == "stored":
            store = LabelStore(run.path(FEATURES))
            store.require(label_source(recipe, inputs, adapted))
            return Teachers(JoinedTeacher(speaks, StoredFeatures(store, engine.device)), validates)
        model = load_teacher(recipe, run, adapted)
        shows = FrozenTeacher(model, engine.device, recipe.task.ask, reads)
        # Asked in each step anyway, it gives its distributions with them.
        return Teachers(shows if recipe.label.mode == "online" else JoinedTeacher(speaks, shows), validates)

    student = Member(
        name="student",
        rows=inputs.splits["train"].rows,
        losses=recipe.weighted_losses(),
        settings=recipe.train,
        open_teachers=teachers,
        criterion=_to_the_teacher() if language else true_labels(),
        depends={
            "labels": labels.content_digest,
            "mode": recipe.label.mode,
            "features": features.content_digest if features else None,
        },
    )
    return _train(run, recipe, inputs, adapted, engine, student)


def train_baseline(
    run: RunDir, recipe: Recipe, inputs: Inputs, adapted: AdaptRecord, engine: Engine
) -> TrainRecord | None:
    """The same student, first weights and number of steps, on the hard labels of the labelled rows.

    On few rows it soon grows over-confident: its validation loss rises while its accuracy does too. Chosen by the
    loss it would stop there, and distilling would look better than it is.
    """
    if not recipe.train.baseline:
        return None
    rows = labelled_rows(inputs.splits["train"].rows)
    smoothing = next((loss.label_smoothing for loss in recipe.losses if isinstance(loss, HardLabels)), 0.0)
    baseline = Member(
        name="baseline",
        rows=rows,
        losses=(HardLabels(weight=Constant(value=1.0), label_smoothing=smoothing),),
        settings=recipe.train.model_copy(update={"select_by": "validation_accuracy"}),
        open_teachers=lambda reads: Teachers(),
        criterion=true_labels(),
    )
    return _train(run, recipe, inputs, adapted, engine, baseline)


def _train(
    run: RunDir, recipe: Recipe, inputs: Inputs, adapted: AdaptRecord, engine: Engine, member: Member
) -> TrainRecord:
    settings, rows = member.settings, member.rows
    length = len(recipe.task.encode(inputs.splits["train"].rows, inputs.tokenizer, inputs.labels).lengths)
    steps = total_steps(settings, length)
    depends = {
        **member.depends,
        "train": settings.model_dump(mode="json", exclude={"baseline", "trackers", "alpha"}),
        "losses": [loss.model_dump(mode="json") for loss in member.losses],
        "student": recipe.student.model_dump(mode="json"),
        "teacher": adapted.digest,
        "classes": inputs.labels,
        "data": {"train": rows_fingerprint(rows), "validation": inputs.fingerprint_of("validation")},
        # The baseline's number of steps follows from the student's rows.
        "steps": steps,
        "task": recipe.task,
        "seed": recipe.seed,
    }

    def work(folder: Path) -> TrainRecord:
        model = initial_student(recipe, inputs, run, adapted)
        initial = weights_digest(model)
        torch.manual_seed(recipe.seed)  # the projections
        shapes = shapes_of(recipe, inputs)
        loss = MixedLoss([loss.build(shapes) for loss in member.losses], compiled=settings.compiled)
        teachers = member.open_teachers(loss.teacher_reads)
        job = Job(
            name=f"train/{member.name}",
            model=model,
            rows=recipe.task.encode(rows, inputs.tokenizer, inputs.labels),
            validation=recipe.task.encode(inputs.splits["validation"].rows, inputs.tokenizer, inputs.labels),
            ask=recipe.task.ask,
            loss=loss,
            teacher=teachers.of_training,
            criterion=member.criterion,
            validation_teacher=teachers.of_validation,
            total_steps=steps,
            seed=recipe.seed,
            settings=settings,
        )
        trackers = open_trackers(settings.trackers, folder, member.name) if engine.is_main else []
        try:
            done = fit(replace(job, trackers=trackers), folder, engine, run.progress)
        finally:
            for tracker in trackers:
                tracker.close()
        save_model(model, inputs.tokenizer, folder / "model", engine)
        return TrainRecord(
            digest=model_digest(folder / "model"),
            initial_digest=initial,
            steps=done.step,
            planned_steps=job.total_steps,
            best_step=done.best_step,
            best_validation_loss=done.best_validation_loss,
            best_validation_accuracy=done.best_validation_accuracy,
            stopped_early=done.stopped_early,
            train_rows=len(rows),
            labelled_rows=sum(row.labelled for row in rows),
            files=folder_files(folder / "model", relative_to=folder),
        )

    return run.once(f"train/{member.name}", depends, TrainRecord, work, together=True)


def _distributions(run: RunDir, recipe: Recipe, inputs: Inputs, adapted: AdaptRecord, engine: Engine) -> Teacher:
    """Who says the teacher's distributions: its store, or the teacher itself."""
    if recipe.label.mode == "online":
        return FrozenTeacher(load_teacher(recipe, run, adapted), engine.device, recipe.task.ask)
    store = LabelStore(run.path(STORE))
    store.require(label_source(recipe, inputs, adapted))
    return StoredTeacher(store, engine.device)


def _to_the_teacher() -> MixedLoss:
    """KL from the teacher at temperature 1: what a language model's student is compared by."""
    return MixedLoss([SoftTargets(weight=Constant(value=1.0), temperature=Constant(value=1.0)).build()])


def initial_student(recipe: Recipe, inputs: Inputs, run: RunDir, adapted: AdaptRecord) -> PreTrainedModel:
    """The student before training: a function of recipe, teacher and seed."""
    config = student_config(inputs.teacher_config, recipe.student)
    config = type(config).from_dict(config.to_dict() | recipe.task.config_values(inputs.labels))
    torch.manual_seed(recipe.seed)
    student = recipe.task.new_model(config)
    init = recipe.student.init
    if isinstance(init, Copy):
        copy_from_teacher(student, load_teacher(recipe, run, adapted), init)
    return student


def weights_digest(model: nn.Module) -> str:
    """Digest of all weights by name, to show that two trainings started from the same."""
    import hashlib

    return fingerprint(
        {
            name: hashlib.sha256(tensor.detach().cpu().numpy().tobytes()).hexdigest()
            for name, tensor in model.state_dict().items()
        }
    )
