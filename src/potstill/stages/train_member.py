"""The training of one member of a run: first weights, loss, teachers, the loop, the model that is left."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from potstill.data.rows import rows_fingerprint
from potstill.data.words import EncodedWords
from potstill.losses import AnyLoss, MixedLoss
from potstill.recipe import Recipe, TrainSettings
from potstill.records import AdaptRecord, TrainRecord
from potstill.run_dir import RunDir, file_digest, folder_files
from potstill.runtimes.folder import model_digest
from potstill.signals import Read
from potstill.stages.first_weights import has_learnt_head, initial_student, weights_digest
from potstill.stages.heads import begin_head
from potstill.stages.inputs import Inputs
from potstill.stages.lora import ADAPTER, BASE, base_of_student, begin_lora, leave_adapter, merged
from potstill.stages.models import save_model
from potstill.stages.opened_teachers import Teachers
from potstill.stages.plan import shapes_of, total_steps
from potstill.stages.rendering import tokens_of, with_tokens
from potstill.stages.scaled_targets import target_scaler_of, with_scaled_targets
from potstill.students import Copy, Pretrained
from potstill.teachers import answered_by_both, snapshot_name
from potstill.training.batches import ShuffledRows
from potstill.training.engine import Engine
from potstill.training.loop import LAST_BITS, Job, fit
from potstill.training.metrics import METRICS, open_trackers

STUDENT = "student"
"""The member that is the student of the run."""
PLACE = {"model", "revision", "trust_remote_code"}
"""What a recipe says of where a student lies that exists already."""


@dataclass(frozen=True)
class Member:
    """What the trainings of student and baseline differ in."""

    name: str
    rows: Sequence[Any]
    losses: Sequence[AnyLoss]
    settings: TrainSettings
    open_teachers: Callable[[PreTrainedModel, frozenset[Read]], Teachers]
    """Opened when training starts, for this student and the features that its losses read."""
    criterion: MixedLoss
    """What its checkpoints are compared by."""
    taught_by_student: bool = False
    """Whether the teacher has the student's own shape, since it was one."""
    depends: Mapping[str, object] = field(default_factory=dict)


def train_member(
    run: RunDir, recipe: Recipe, inputs: Inputs, adapted: AdaptRecord, engine: Engine, member: Member
) -> TrainRecord:
    """The trained member, in `train/<name>`."""
    stage = f"train/{member.name}"
    last_bits = [f"train.{name}" for name in LAST_BITS]
    auto = {"train.precision": engine.precision("auto")}
    depends = _depends_of(recipe, inputs, adapted, engine, member)
    tokens = tokens_of(recipe, inputs)
    depends = with_tokens(depends, tokens, run, stage, recipe, inputs, last_bits=last_bits, auto=auto)

    def work(folder: Path) -> TrainRecord:
        return _train(run, folder, stage, recipe, inputs, adapted, engine, member)

    return run.once(stage, depends, TrainRecord, work, together=True, last_bits=last_bits, auto=auto)


def _depends_of(
    recipe: Recipe, inputs: Inputs, adapted: AdaptRecord, engine: Engine, member: Member
) -> dict[str, object]:
    """What decides the weights of a member, but for the tokens of its rows."""
    settings = member.settings
    depends: dict[str, object] = {
        **member.depends,
        "train": settings.model_dump(mode="json", exclude={"baseline", "trackers", "alpha"})
        | {"precision": engine.precision(settings.precision)},
        "losses": [loss.model_dump(mode="json") for loss in member.losses],
        # Where a model lies is of no matter: its digest is below.
        "student": inputs.student.model_dump(mode="json", exclude=PLACE if inputs.own else None),
        "teacher": adapted.digest,
        "classes": inputs.labels,
        "data": {"train": rows_fingerprint(member.rows), "validation": inputs.fingerprint_of("validation")},
        # The baseline's number of steps follows from the student's rows.
        "steps": total_steps(settings, trained_length(recipe, inputs)),
        "task": recipe.task,
        "seed": recipe.seed,
    }

    # What decides the first weights, and is in no other key. Only where it does, so that other runs go on.
    if recipe.teacher.lead_member is not None:
        depends["lead"] = adapted.members[recipe.teacher.lead_member].digest
    if isinstance(inputs.student, Pretrained):
        assert inputs.own is not None
        depends["own"] = inputs.own.files.digest
    elif isinstance(inputs.student.init, Copy) and inputs.student.init.measures:
        depends["sampled"] = inputs.fingerprint_of("train")
    if inputs.vocabulary is not None or not inputs.read_alike:
        # It follows from more rows than the baseline's.
        depends["tokenizer"] = inputs.of_student.tokenizer_digest
    return depends


def _train(
    run: RunDir,
    folder: Path,
    stage: str,
    recipe: Recipe,
    inputs: Inputs,
    adapted: AdaptRecord,
    engine: Engine,
    member: Member,
) -> TrainRecord:
    settings, rows = member.settings, member.rows
    steps = total_steps(settings, trained_length(recipe, inputs))

    def save(name: str) -> None:
        with scaler.unscaled_outputs(model) if scaler else nullcontext(), merged(adapter):
            save_model(model, inputs.of_student.tokenizer, folder / name, engine)

    model = initial_student(recipe, inputs, run, adapted)
    initial = weights_digest(model)
    own_base = base_of_student(inputs)
    if settings.lora is not None and own_base is None and member.name == STUDENT:
        # Beside these stands its adapter, and that of each other member, which begins with the same.
        save_model(model, inputs.of_student.tokenizer, folder / BASE, engine)
    scaler = target_scaler_of(recipe, inputs.splits["train"].rows)
    begin_head(recipe, inputs, model, inputs.splits["train"].rows, known=has_learnt_head(recipe, inputs))
    adapter = begin_lora(recipe, inputs, model, settings, "train", engine)
    torch.manual_seed(recipe.seed)  # the projections
    shapes = shapes_of(recipe, inputs, taught_by_student=member.taught_by_student)
    loss = MixedLoss([loss.build(shapes) for loss in member.losses], compiled=settings.compiled)
    teachers = member.open_teachers(model, loss.teacher_reads)
    encoded = with_scaled_targets(recipe, inputs.of_student, rows, scaler)
    if isinstance(encoded, EncodedWords) and not inputs.read_alike and not member.taught_by_student:
        as_teacher = inputs.encoded(recipe, rows)
        assert isinstance(as_teacher, EncodedWords)
        encoded = answered_by_both(encoded, as_teacher)
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
    with open_trackers(settings.trackers if engine.is_main else (), folder, member.name) as trackers:
        done = fit(replace(job, trackers=trackers), folder, engine, run.progress)
    lora = None
    if adapter is not None:
        base, revision = own_base or (f"../../{STUDENT}/{BASE}", None)
        with scaler.unscaled_outputs(model) if scaler else nullcontext():
            lora = leave_adapter(
                recipe, adapter, job.validation, folder / ADAPTER, engine, base=base, revision=revision
            )
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
        lora=lora,
        files=folder_files(folder / "model", relative_to=folder)
        | _files_of_snapshots(folder)
        | _files_of_adapter(folder)
        | {METRICS: file_digest(folder / METRICS)},
    )


def trained_length(recipe: Recipe, inputs: Inputs) -> int:
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


def _files_of_adapter(folder: Path) -> dict[str, str]:
    """Those of an adapter, and of the weights beside which it stands where these lie here."""
    found = (folder_files(folder / name, relative_to=folder) for name in (ADAPTER, BASE) if (folder / name).is_dir())
    return dict(pair for files in found for pair in files.items())


def _files_of_snapshots(folder: Path) -> dict[str, str]:
    snapshots = folder / Path(snapshot_name(0.0)).parent
    return folder_files(snapshots, relative_to=folder) if snapshots.is_dir() else {}
