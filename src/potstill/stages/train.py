"""train: the student from its teacher's answers, and the baseline, the same student from hard labels alone."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from potstill.data.rows import labelled_rows, rows_fingerprint
from potstill.labels import LabelStore, StoredFeatures, StoredTeacher
from potstill.losses import AnyLoss, HardLabels, MixedLoss, SoftTargets
from potstill.recipe import Recipe, TrainSettings
from potstill.records import AdaptRecord, LabelRecord, TrainRecord
from potstill.run_dir import RunDir, file_digest, folder_files
from potstill.schedules import Constant
from potstill.signals import Read, Teacher
from potstill.stages.common import Inputs, target_scaler_of, true_labels, with_scaled_targets
from potstill.stages.first_weights import has_learnt_head, initial_student, weights_digest
from potstill.stages.heads import begin_head
from potstill.stages.label import is_round, label_source, one_of, store_of
from potstill.stages.label_features import by_part, features_of
from potstill.stages.models import load_teacher, model_digest, save_model
from potstill.stages.plan import shapes_of, steps_per_epoch, total_steps
from potstill.stages.rendering import LABELLED, tokens_of, with_tokens
from potstill.students import Copy
from potstill.tasks import TextClassification
from potstill.tasks.target_scaler import TargetScaler
from potstill.teachers import (
    CompositeTeacher,
    EnsembleTeacher,
    FrozenTeacher,
    MovingAverage,
    MovingAverageTeacher,
    TokenMappedTeacher,
    lead_name,
    routes_of,
    snapshot_name,
)
from potstill.training.batches import ShuffledRows
from potstill.training.engine import Engine
from potstill.training.loop import LAST_BITS, Job, fit, no_teacher
from potstill.training.metrics import METRICS, open_trackers


@dataclass(frozen=True)
class Teachers:
    """Who speaks of the rows of a training, and of those that its checkpoints are judged on."""

    of_training: Teacher = no_teacher
    of_validation: Teacher = no_teacher


@dataclass(frozen=True)
class Member:
    """What the trainings of student and baseline differ in."""

    name: str
    rows: Sequence[Any]
    losses: Sequence[AnyLoss]
    settings: TrainSettings
    open_teachers: Callable[[PreTrainedModel, frozenset[Read]], "Teachers"]
    """Opened when training starts, for this student and the features that its losses read."""
    criterion: MixedLoss
    """What its checkpoints are compared by."""
    taught_by_student: bool = False
    """Whether the teacher has the student's own shape, since it was one."""
    depends: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Lessons:
    """What a student learns from: a teacher, and what was stored of its answers under its name."""

    name: str
    teacher: AdaptRecord
    labels: LabelRecord
    features: tuple[LabelRecord, ...]
    """One store for each stack of the teacher."""


def train_student(
    run: RunDir,
    recipe: Recipe,
    inputs: Inputs,
    adapted: AdaptRecord,
    lessons: Lessons,
    engine: Engine,
    name: str = "student",
) -> TrainRecord:
    """A distilled student, cut from the teacher `adapted` and taught by `lessons`."""
    # A teacher that moves would make another measure of each checkpoint.
    compared = recipe.task.generative and not isinstance(recipe.teacher, MovingAverageTeacher)

    def teachers(student: PreTrainedModel, reads: frozenset[Read]) -> Teachers:
        opened = _Opened(run, recipe, inputs, lessons, engine)
        if isinstance(recipe.teacher, MovingAverageTeacher):
            return Teachers(opened.average_of(student, recipe.teacher, reads))
        speaks = opened.distributions()
        return Teachers(opened.with_features(speaks, reads), speaks if compared else no_teacher)

    student = Member(
        name=name,
        rows=inputs.splits["train"].rows,
        losses=recipe.weighted_losses(),
        settings=recipe.train,
        open_teachers=teachers,
        criterion=_to_the_teacher() if compared else true_labels(),
        taught_by_student=is_round(lessons.name),
        depends={
            "labels": lessons.labels.content_digest,
            "mode": recipe.label.mode,
            "features": _digest_of_all(lessons.features),
            # What decides how the teacher's answers are used, and is in no digest of theirs.
            "kind": recipe.teacher if recipe.ensemble or isinstance(recipe.teacher, MovingAverageTeacher) else None,
        },
    )
    return _train(run, recipe, inputs, adapted, engine, student)


def _digest_of_all(stores: Sequence[LabelRecord]) -> object:
    # Of a single store as it was before there could be ensemble, so that a run goes on.
    digests = [store.content_digest for store in stores]
    return digests if len(digests) > 1 else next(iter(digests), None)


def train_baseline(
    run: RunDir, recipe: Recipe, inputs: Inputs, adapted: AdaptRecord, engine: Engine
) -> TrainRecord | None:
    """The same student, first weights, number of steps and steps between evaluations, on the hard labels of the
    labelled rows.

    On few rows it soon grows over-confident: its validation loss rises while its accuracy does too. Chosen by the
    loss it would stop there, and distilling would look better than it is.
    """
    if not recipe.train.baseline:
        return None
    rows = labelled_rows(inputs.splits["train"].rows)
    numbers = target_scaler_of(recipe, rows) is not None
    settings = recipe.train.model_copy(update={"select_by": "validation_loss" if numbers else "validation_accuracy"})
    if settings.evaluate_every is None and len(rows) < len(inputs.splits["train"].rows):
        # When the student is: by its own, shorter epochs the baseline would have more checkpoints to choose from.
        steps = steps_per_epoch(settings, _trained_length(recipe, inputs))
        settings = settings.model_copy(update={"evaluate_every": steps})
    smoothing = next((loss.label_smoothing for loss in recipe.losses if isinstance(loss, HardLabels)), 0.0)
    baseline = Member(
        name="baseline",
        rows=rows,
        losses=(HardLabels(weight=Constant(value=1.0), label_smoothing=smoothing),),
        settings=settings,
        open_teachers=lambda student, reads: Teachers(),
        criterion=true_labels(),
    )
    return _train(run, recipe, inputs, adapted, engine, baseline)


def _train(
    run: RunDir, recipe: Recipe, inputs: Inputs, adapted: AdaptRecord, engine: Engine, member: Member
) -> TrainRecord:
    settings, rows = member.settings, member.rows
    tokenizer = inputs.of_student.tokenizer
    steps = total_steps(settings, _trained_length(recipe, inputs))
    depends: dict[str, object] = {
        **member.depends,
        "train": settings.model_dump(mode="json", exclude={"baseline", "trackers", "alpha"})
        | {"precision": engine.precision(settings.precision)},
        "losses": [loss.model_dump(mode="json") for loss in member.losses],
        "student": inputs.student.model_dump(mode="json"),
        "teacher": adapted.digest,
        "classes": inputs.labels,
        "data": {"train": rows_fingerprint(rows), "validation": inputs.fingerprint_of("validation")},
        # The baseline's number of steps follows from the student's rows.
        "steps": steps,
        "task": recipe.task,
        "seed": recipe.seed,
    }

    # What decides the first weights, and is in no other key. Only where it does, so that other runs go on.
    if recipe.ensemble is not None:
        depends["lead"] = adapted.members[lead_name(recipe.ensemble)].digest
    if isinstance(inputs.student.init, Copy) and inputs.student.init.measures:
        depends["sampled"] = inputs.fingerprint_of("train")
    if inputs.vocabulary is not None:
        # It follows from more rows than the baseline's.
        depends["tokenizer"] = inputs.of_student.tokenizer_digest
    stage, tokens = f"train/{member.name}", tokens_of(recipe, inputs)
    last_bits = [f"train.{name}" for name in LAST_BITS]
    auto = {"train.precision": engine.precision("auto")}
    depends = with_tokens(depends, tokens, run, stage, recipe, inputs, last_bits=last_bits, auto=auto)

    def work(folder: Path) -> TrainRecord:
        def save(name: str) -> None:
            with scaler.unscaled_outputs(model) if scaler else nullcontext():
                save_model(model, tokenizer, folder / name, engine)

        model = initial_student(recipe, inputs, run, adapted)
        initial = weights_digest(model)
        scaler = target_scaler_of(recipe, inputs.splits["train"].rows)
        begin_head(recipe, inputs, model, inputs.splits["train"].rows, known=has_learnt_head(recipe, inputs))
        torch.manual_seed(recipe.seed)  # the projections
        shapes = shapes_of(recipe, inputs, taught_by_student=member.taught_by_student)
        loss = MixedLoss([loss.build(shapes) for loss in member.losses], compiled=settings.compiled)
        teachers = member.open_teachers(model, loss.teacher_reads)
        encoded = with_scaled_targets(recipe, inputs.of_student, rows, scaler)
        job = Job(
            name=stage,
            model=model,
            batches=ShuffledRows(encoded, settings, recipe.seed),
            validation=with_scaled_targets(recipe, inputs.of_student, inputs.splits["validation"].rows, scaler),
            ask=recipe.task.ask,
            loss=loss,
            teacher=teachers.of_training,
            criterion=member.criterion,
            validation_teacher=teachers.of_validation,
            total_steps=steps,
            seed=recipe.seed,
            settings=settings,
            at_step=_snapshots(settings, steps, lambda share: save(snapshot_name(share))),
        )
        trackers = open_trackers(settings.trackers, folder, member.name) if engine.is_main else []
        try:
            done = fit(replace(job, trackers=trackers), folder, engine, run.progress)
        finally:
            for tracker in trackers:
                tracker.close()
        save("model")
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
            files=folder_files(folder / "model", relative_to=folder)
            | _files_of_snapshots(folder)
            | {METRICS: file_digest(folder / METRICS)},
        )

    return run.once(stage, depends, TrainRecord, work, together=True, last_bits=last_bits, auto=auto)


def _trained_length(recipe: Recipe, inputs: Inputs) -> int:
    """The training rows as they are put into batches: of language models those that are packed."""
    return len(inputs.of_student.encoded(recipe, inputs.splits["train"].rows).lengths)


def _snapshots(settings: TrainSettings, steps: int, save: Callable[[float], None]) -> Mapping[int, Callable[[], None]]:
    """What is saved after which step."""
    due: dict[int, list[float]] = {}
    for share in settings.snapshots:
        due.setdefault(max(1, round(share * steps)), []).append(share)

    def save_all(shares: Sequence[float]) -> None:
        for share in shares:
            save(share)

    return {step: partial(save_all, shares) for step, shares in due.items()}


def _files_of_snapshots(folder: Path) -> dict[str, str]:
    snapshots = folder / Path(snapshot_name(0.0)).parent
    return folder_files(snapshots, relative_to=folder) if snapshots.is_dir() else {}


@dataclass(frozen=True)
class _Opened:
    """The teacher of a training, by what it is asked for."""

    run: RunDir
    recipe: Recipe
    inputs: Inputs
    lessons: Lessons
    engine: Engine

    def distributions(self) -> Teacher:
        """Who says the teacher's distributions: its store, or the teacher itself; of ensemble, all of them.

        Nobody, where training does not read them.
        """
        if not self.recipe.reads_distributions:
            return no_teacher
        ensemble = self.recipe.ensemble
        if ensemble is not None:
            members = {name: self._member(name).distributions() for name in ensemble.of}
            routes: dict[str, tuple[int, int]] = {}
            # A language model's teachers also speak of the validation rows.
            for name in LABELLED if self.recipe.task.generative else ("train",):
                rows = self.inputs.splits[name].rows
                encoded = self.inputs.encoded(self.recipe, rows)
                routes |= routes_of(ensemble, encoded, rows)
            return EnsembleTeacher(ensemble, members, routes)
        if self.recipe.label.mode == "online":
            return self._asked(frozenset())
        store = self._store(store_of(self.lessons.name))
        if isinstance(self.recipe.task, TextClassification):
            stored = StoredTeacher(store, self.engine.device, self.recipe.task.problem.signals)
            # All that lies on disk speaks in the unit of the labels.
            return self._units.of_teacher(stored) if self._units else stored
        return StoredTeacher(store, self.engine.device)

    def _member(self, name: str) -> "_Opened":
        recipe, inputs, teacher = one_of(self.recipe, self.inputs, self.lessons.teacher, name)
        return replace(self, recipe=recipe, inputs=inputs, lessons=replace(self.lessons, name=name, teacher=teacher))

    def with_features(self, speaks: Teacher, reads: frozenset[Read]) -> Teacher:
        """`speaks`, and beside it what shows the features that are read."""
        if not reads:
            return speaks
        if self.recipe.ensemble is not None:
            lead = self._member(lead_name(self.recipe.ensemble))
            # Beside the lead's features, not its distributions: those are of all.
            return CompositeTeacher(speaks, (lead.with_features(no_teacher, reads),))
        if self.recipe.label.features == "stored":
            stores = [self._store(features_of(self.lessons.name, part)) for part in by_part(reads)]
            return CompositeTeacher(speaks, tuple(StoredFeatures(store, self.engine.device) for store in stores))
        shows = self._asked(reads)
        # Asked in each step anyway, it gives its distributions with them.
        return shows if self.recipe.label.mode == "online" else CompositeTeacher(speaks, (shows,))

    def average_of(
        self, student: PreTrainedModel, settings: MovingAverageTeacher, reads: frozenset[Read]
    ) -> MovingAverage:
        """The moving average of this student."""
        ask, device = self.recipe.task.ask, self.engine.device
        return MovingAverage(student, device, ask, reads, decay=settings.decay, every=settings.every)

    @cached_property
    def _model(self) -> PreTrainedModel:
        """Loaded once, whether it is asked for distributions, for features, or for both."""
        model = load_teacher(self.recipe, self.run, self.lessons.teacher)
        if self._units:
            # Before it is asked: in half precision numbers far from zero would lose what tells them apart.
            self._units.standardise(model)
        return model

    @property
    def _units(self) -> TargetScaler | None:
        return target_scaler_of(self.recipe, self.inputs.splits["train"].rows)

    def _asked(self, reads: frozenset[Read]) -> Teacher:
        teacher = FrozenTeacher(self._model, self.engine.device, self.recipe.task.ask, reads)
        vocabulary = self.inputs.vocabulary
        # A student of an earlier generation has the same vocabulary as this one.
        if vocabulary is None or is_round(self.lessons.name):
            return teacher
        return TokenMappedTeacher(teacher, vocabulary.kept)

    def _store(self, path: str) -> LabelStore:
        store = LabelStore(self.run.path(path))
        inputs = self.inputs.of_student if is_round(self.lessons.name) else self.inputs
        store.require(label_source(self.recipe, inputs, self.lessons.teacher, self.engine))
        return store


def _to_the_teacher() -> MixedLoss:
    """KL from the teacher at temperature 1: what a language model's student is compared by."""
    return MixedLoss([SoftTargets(weight=Constant(value=1.0), temperature=Constant(value=1.0)).build()])
