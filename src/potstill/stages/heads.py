"""The heads of teachers before they are adapted: which can go on, which are replaced, and how a new one begins."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel

from potstill.recipe import Recipe
from potstill.stages.inputs import Inputs
from potstill.stages.teacher_files import STUDENT, Files
from potstill.students import Pretrained
from potstill.tasks.classes import TEACHER, head_names, listed, named_by_hand
from potstill.teachers import PretrainedTeacher


def begin_head(recipe: Recipe, inputs: Inputs, model: PreTrainedModel, rows: Sequence[Any], *, known: bool) -> None:
    """Make a head ready to be trained on these rows; `known` says whether it has learnt this form of answer before.

    One whose outputs are in the unit of the labels is changed to standard units, and those of a new one are taken to be
    in them. One of many labels begins with their shares.
    """
    scaler = recipe.task.scaler_of(rows)
    if scaler and known:
        scaler.standardise(model)
    if not known:
        recipe.task.begin_head(model, rows, inputs.labels)


def has_head(recipe: Recipe, inputs: Inputs) -> bool:
    """Whether the teacher, before it is adapted, has a head for this form of answer and these classes."""
    config, filled = inputs.lead.config, inputs.lead.filled
    if not recipe.task.has_form(config, inputs.labels):
        return False
    if filled is not None and filled.new:
        return False
    return not recipe.task.named_outputs or sorted(head_names(config, recipe.lead.classes)) == sorted(inputs.labels)


def student_has_head(recipe: Recipe, inputs: Inputs) -> bool:
    """Whether a student that exists already has a head for this form of answer and these classes, so that it answers
    before it is trained; one whose models write always does."""
    task = recipe.task
    if not task.has_head:
        return True
    assert inputs.own is not None and isinstance(inputs.student, Pretrained)
    config, filled = inputs.own.files.config, inputs.own.files.filled
    if filled is not None and filled.new:
        return False
    if task.named_outputs:
        # A configuration that does not say of which form its classes are is taken at the recipe's word.
        return config.problem_type in (None, task.config_values(inputs.labels)["problem_type"]) and (
            sorted(head_names(config, inputs.student.classes, STUDENT)) == sorted(inputs.labels)
        )
    return task.has_form(config, inputs.labels)


def student_head_told(recipe: Recipe, inputs: Inputs) -> list[str]:
    """That the head of a student that exists already is replaced, where it is."""
    if not isinstance(inputs.student, Pretrained) or student_has_head(recipe, inputs):
        return []
    assert inputs.own is not None
    files, labels = inputs.own.files, inputs.labels
    absent = files.filled is not None and files.filled.without_head
    if absent or not recipe.task.named_outputs:
        return [f"student: {_NEW_HEAD}; so nothing tells how well it does as it comes."]
    own = head_names(files.config, inputs.student.classes, STUDENT)
    return [
        f"student: its head knows other classes ({listed(own)}) than the data ({listed(labels)}), so that {_NEW_HEAD}."
        f"{named_by_hand(own, labels, STUDENT)}"
    ]


_NEW_HEAD = "its head begins with random weights"


def replaced_head(recipe: Recipe, teacher: PretrainedTeacher, files: Files, labels: Sequence[str]) -> list[str] | None:
    """The classes of a head that is drawn anew because they are not those of the data; None where none is.

    A base model has no head, and its configuration the names that transformers gives to outputs without any.
    """
    if recipe.adapt is None or not recipe.task.named_outputs:
        return None
    own = head_names(files.config, teacher.classes)
    nameless = all(name == f"LABEL_{number}" for number, name in enumerate(own))
    absent = files.filled.without_head if files.filled is not None else nameless
    return None if absent or sorted(own) == sorted(labels) else own


def in_another_order(recipe: Recipe, inputs: Inputs) -> bool:
    """Whether a classifier that is not adapted has the classes of the run, and in another order than the run."""
    if recipe.adapt is not None or not inputs.labels:
        return False
    own = head_names(inputs.lead.config, recipe.lead.classes)
    return own != inputs.labels and sorted(own) == sorted(inputs.labels)


def heads_told(recipe: Recipe, inputs: Inputs) -> list[str]:
    """Which parts of the teachers begin with random weights although their checkpoints have, or should have, others;
    and which heads may have been trained for another answer."""
    teachers = recipe.teacher.members or {TEACHER: recipe.lead}
    told = []
    for name, teacher in teachers.items():
        files = inputs.members.get(name, inputs.lead)
        where = f"{TEACHER}.of.{name}" if name in inputs.members else TEACHER
        own = replaced_head(recipe, teacher, files, inputs.labels)
        if own is not None:
            told.append(
                f"{name}: its head knows other classes ({listed(own)}) than the data ({listed(inputs.labels)}), so it "
                f"is replaced by a new one before it is adapted.{named_by_hand(own, inputs.labels, where)}"
            )
        if not recipe.adapt and recipe.task.form_unstated(files.config):
            told.append(
                f"{name}: its config.json does not say problem_type, and its outputs are read as several labels, each "
                "by itself. If its head was trained to choose one class, they mean something else: leave "
                "task.problem_type out, or add an adapt section."
            )
        pooler = sorted(each for each in files.filled.new if ".pooler." in each) if files.filled else []
        if pooler:
            told.append(f"{name}: its checkpoint has no pooler ({pooler[0]}); a new one is trained with the head.")
        if files.filled and files.filled.unread:
            told.append(
                f"{name}: its checkpoint has a pooler ({min(files.filled.unread)}), which a head for words does not "
                "read, and its config.json does not say which class was saved (architectures): if its head is one of "
                "whole texts, its answers for words mean nothing."
            )
    return told
