"""train: the student from its teacher's answers, and the baseline, the same student from hard labels alone."""

from collections.abc import Sequence

from transformers import PreTrainedModel

from potstill.capabilities import Capability
from potstill.data.rows import labelled_rows
from potstill.losses import HardLabels
from potstill.recipe import Recipe
from potstill.records import AdaptRecord, LabelRecord, TrainRecord
from potstill.run_dir import RunDir
from potstill.schedules import Constant
from potstill.signals import Read
from potstill.stages.criteria import kl_from_teacher, true_labels
from potstill.stages.inputs import Inputs
from potstill.stages.opened_teachers import Lessons, Teachers, open_teachers
from potstill.stages.plan import steps_per_epoch
from potstill.stages.train_member import Member, train_member, trained_length
from potstill.teachers.self_taught import is_round
from potstill.training.engine import Engine


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
    compared = recipe.task.compared_by_teacher and Capability.STILLNESS in recipe.teacher.gives

    def teachers(student: PreTrainedModel, reads: frozenset[Read]) -> Teachers:
        return open_teachers(run, recipe, inputs, lessons, engine, student, reads, of_validation=compared)

    student = Member(
        name=name,
        rows=inputs.splits["train"].rows,
        losses=recipe.weighted_losses(),
        settings=recipe.train,
        open_teachers=teachers,
        criterion=kl_from_teacher() if compared else true_labels(),
        taught_by_student=is_round(lessons.name),
        depends={
            "labels": lessons.labels.content_digest,
            "mode": recipe.label.mode,
            "features": _digest_of_all(lessons.features),
            # What decides how the teacher's answers are used, and is in no digest of theirs.
            "kind": recipe.teacher if recipe.teacher.settings_decide else None,
            **inputs.loaded_as_in_digests,
        },
    )
    return train_member(run, recipe, inputs, adapted, engine, student)


def _digest_of_all(stores: Sequence[LabelRecord]) -> object:
    # Of a single store as it was before there could be more, so that a run goes on.
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
    numbers = recipe.task.means
    settings = recipe.train.model_copy(update={"select_by": "validation_loss" if numbers else "validation_accuracy"})
    if settings.evaluate_every is None and len(rows) < len(inputs.splits["train"].rows):
        # When the student is: by its own, shorter epochs the baseline would have more checkpoints to choose from.
        steps = steps_per_epoch(settings, trained_length(recipe, inputs))
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
    return train_member(run, recipe, inputs, adapted, engine, baseline)
