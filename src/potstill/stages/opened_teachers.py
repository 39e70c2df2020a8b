"""The teachers of a training, opened: a store, a model, an ensemble of them, or the moving average of the student."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from transformers import PreTrainedModel

from potstill.capabilities import Capability
from potstill.cross_tokenizer import RetellingTeacher
from potstill.data.words import EncodedWords
from potstill.labels import LabelStore, StoredFeatures, StoredTeacher
from potstill.recipe import Recipe
from potstill.records import AdaptRecord, LabelRecord
from potstill.run_dir import RunDir
from potstill.signals import Ask, Read, Teacher
from potstill.stages.inputs import Inputs
from potstill.stages.label import answering, by_part, features_of, label_source, one_of, store_of
from potstill.stages.models import load_teacher, teacher_predictor
from potstill.stages.other_tokens import aligned_rows
from potstill.stages.scaled_targets import target_scaler_of
from potstill.tasks.target_scaler import TargetScaler
from potstill.teachers import (
    CompositeTeacher,
    FrozenTeacher,
    OwnReadingTeacher,
    OwnWindowsTeacher,
    Routes,
    TokenMappedTeacher,
    answered_by_both,
    routes_by,
)
from potstill.teachers.self_taught import is_round
from potstill.training.engine import Engine
from potstill.training.loop import no_teacher


@dataclass(frozen=True)
class Teachers:
    """A teacher for the rows of a training, and one for the rows that its checkpoints are compared on."""

    of_training: Teacher = no_teacher
    of_validation: Teacher = no_teacher


@dataclass(frozen=True)
class Lessons:
    """What a student learns from: a teacher, and what was stored of its answers under its name."""

    name: str
    teacher: AdaptRecord
    labels: LabelRecord
    features: tuple[LabelRecord, ...]
    """One store for each stack of the teacher."""


def open_teachers(
    run: RunDir,
    recipe: Recipe,
    inputs: Inputs,
    lessons: Lessons,
    engine: Engine,
    student: PreTrainedModel,
    reads: frozenset[Read],
    *,
    of_validation: bool,
) -> Teachers:
    """The teachers of a student whose losses read these features.

    `of_validation` says whether one is needed for the rows that its checkpoints are compared on.
    """
    opened = OpenedTeachers(run, recipe, inputs, lessons, engine, student)
    still = no_teacher if not of_validation else recipe.teacher.open(opened, frozenset())
    teacher = recipe.teacher.open(opened, reads)
    if not inputs.read_alike and not is_round(lessons.name):
        assert not reads, "such a student is compared with its teacher by its answers alone"
        if recipe.task.compares_texts:
            still = _retelling(recipe, inputs, still, engine, "validation") if of_validation else still
            return Teachers(_retelling(recipe, inputs, teacher, engine, "train"), still)
        assert not of_validation, "such a student is compared with its teacher by rows or words alone"
        teacher = _reading_for_itself(recipe, inputs, teacher)
    return Teachers(teacher, still)


def _retelling(recipe: Recipe, inputs: Inputs, teacher: Teacher, engine: Engine, split: str) -> Teacher:
    """A teacher of language models that answers in its student's tokens; none where no loss reads what it says."""
    if not recipe.reads_distributions:
        return teacher
    return RetellingTeacher(teacher, aligned_rows(recipe, inputs, split), engine.device)


def _reading_for_itself(recipe: Recipe, inputs: Inputs, teacher: Teacher) -> Teacher:
    """A teacher that is shown the training rows as its own tokenizer reads them."""
    rows = inputs.splits["train"].rows
    own = inputs.encoded(recipe, rows)
    if not isinstance(own, EncodedWords):
        return OwnReadingTeacher(teacher, own)
    of_student = inputs.of_student.encoded(recipe, rows)
    assert isinstance(of_student, EncodedWords)
    return OwnWindowsTeacher(teacher, own, answered_by_both(of_student, own))


@dataclass(frozen=True)
class OpenedTeachers:
    """What a run has of the teachers of some lessons, each opened once and when it is first read."""

    run: RunDir
    recipe: Recipe
    inputs: Inputs
    lessons: Lessons
    engine: Engine
    student: PreTrainedModel
    known: dict[str | None, Teacher] = field(default_factory=dict)
    members: dict[str, "OpenedTeachers"] = field(default_factory=dict)

    @property
    def ask(self) -> Ask:
        return self.recipe.task.ask

    @property
    def device(self) -> torch.device:
        return self.engine.device

    def distributions(self, member: str | None = None) -> Teacher:
        """The store of a teacher's distributions, or the teacher itself; none where training does not read them."""
        if member is not None:
            return self._of(member).distributions()
        if None not in self.known:
            self.known[None] = self._distributions()
        return self.known[None]

    def _distributions(self) -> Teacher:
        if not self.recipe.reads_distributions:
            return no_teacher
        if self.recipe.label.mode == "online":
            return self._frozen(frozenset())
        stored = StoredTeacher(self._store(store_of(self.lessons.name)), self.device, self.recipe.task.signals)
        # All that lies on disk is in the unit of the labels.
        return self._scaler.of_teacher(stored) if self._scaler else stored

    def with_features(self, distributions: Teacher, reads: frozenset[Read], member: str | None = None) -> Teacher:
        """`distributions`, and beside it what gives the features that are read."""
        if not reads:
            return distributions
        if member is not None:
            return CompositeTeacher(distributions, (self._of(member).with_features(no_teacher, reads),))
        if self.recipe.label.features == "stored":
            stores = [self._store(features_of(self.lessons.name, part)) for part in by_part(reads)]
            return CompositeTeacher(distributions, tuple(StoredFeatures(store, self.device) for store in stores))
        features = self._frozen(reads)
        # Its forward pass is made in each step anyway, and gives its distributions too.
        return features if self.recipe.label.mode == "online" else CompositeTeacher(distributions, (features,))

    def routes(self, member_for: Callable[[str | None, str], int] | None) -> Routes:
        """Which member answers each row that is learnt, or that checkpoints are compared by."""
        routes: dict[str, tuple[int, int]] = {}
        for name in self.recipe.task.labelled_splits if member_for else ():
            rows = self.inputs.splits[name].rows
            assert member_for is not None
            routes |= routes_by(member_for, self.inputs.encoded(self.recipe, rows), rows)
        return routes

    def _of(self, name: str) -> "OpenedTeachers":
        if name not in self.members:
            recipe, inputs, teacher = one_of(self.recipe, self.inputs, self.lessons.teacher, name)
            lessons = replace(self.lessons, name=name, teacher=teacher)
            self.members[name] = OpenedTeachers(self.run, recipe, inputs, lessons, self.engine, self.student)
        return self.members[name]

    @cached_property
    def _model(self) -> PreTrainedModel:
        """Loaded once, whether for distributions, for features, or for both."""
        model = load_teacher(self.recipe, self.run, self.lessons.teacher, answering(self.inputs, self.lessons.name))
        if self._scaler:
            # Before its forward passes: in half precision numbers far from zero would lose what tells them apart.
            self._scaler.standardise(model)
        return model

    @property
    def _scaler(self) -> TargetScaler | None:
        return target_scaler_of(self.recipe, self.inputs.splits["train"].rows)

    def _frozen(self, reads: frozenset[Read]) -> Teacher:
        """The teacher's own forward pass, with these features, on the token ids of the student."""
        teacher: Teacher
        if Capability.WEIGHTS in self.recipe.teacher.gives:
            teacher = FrozenTeacher(self._model, self.engine.device, self.recipe.task.ask, reads)
        else:
            assert not reads, "a recipe reads the layers of no such teacher"
            answers = teacher_predictor(self.recipe, self.run, self.inputs, self.lessons.teacher, self.engine)
            # Without a model of which the last layer could be changed.
            teacher = self._scaler.of_teacher(answers.forward) if self._scaler else answers.forward
        vocabulary = self.inputs.vocabulary
        # A student of an earlier round has the same vocabulary as this one.
        if vocabulary is None or is_round(self.lessons.name):
            return teacher
        return TokenMappedTeacher(teacher, vocabulary.kept)

    def _store(self, path: str) -> LabelStore:
        store = LabelStore(self.run.path(path))
        inputs = self.inputs.of_student if is_round(self.lessons.name) else self.inputs
        store.require(label_source(self.recipe, inputs, self.lessons.teacher, self.engine, self.lessons.name))
        return store
