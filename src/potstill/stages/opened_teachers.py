"""The teachers of a training, opened: a store, a model, an ensemble of them, or the moving average of the student."""

from dataclasses import dataclass, replace
from functools import cached_property

from transformers import PreTrainedModel

from potstill.labels import LabelStore, StoredFeatures, StoredTeacher
from potstill.recipe import Recipe
from potstill.records import AdaptRecord, LabelRecord
from potstill.run_dir import RunDir
from potstill.signals import Read, Teacher
from potstill.stages.common import Inputs, target_scaler_of
from potstill.stages.label import by_part, features_of, is_round, label_source, one_of, store_of
from potstill.stages.models import load_teacher
from potstill.stages.rendering import LABELLED
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
)
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
    opened = OpenedTeacher(run, recipe, inputs, lessons, engine)
    if isinstance(recipe.teacher, MovingAverageTeacher):
        return Teachers(opened.average_of(student, recipe.teacher, reads))
    distributions = opened.distributions()
    return Teachers(opened.with_features(distributions, reads), distributions if of_validation else no_teacher)


@dataclass(frozen=True)
class OpenedTeacher:
    """The one teacher of some lessons, or all of an ensemble, opened by what is read of it."""

    run: RunDir
    recipe: Recipe
    inputs: Inputs
    lessons: Lessons
    engine: Engine

    def distributions(self) -> Teacher:
        """What gives the teacher's distributions: its store, or the teacher itself; of an ensemble, all members.

        It gives none where training does not read them.
        """
        if not self.recipe.reads_distributions:
            return no_teacher
        ensemble = self.recipe.ensemble
        if ensemble is not None:
            members = {name: self._member(name).distributions() for name in ensemble.of}
            routes: dict[str, tuple[int, int]] = {}
            # A language model's checkpoints are compared with the teachers on the validation rows.
            for name in LABELLED if self.recipe.task.generative else ("train",):
                rows = self.inputs.splits[name].rows
                encoded = self.inputs.encoded(self.recipe, rows)
                routes |= routes_of(ensemble, encoded, rows)
            return EnsembleTeacher(ensemble, members, routes)
        if self.recipe.label.mode == "online":
            return self._frozen(frozenset())
        store = self._store(store_of(self.lessons.name))
        if isinstance(self.recipe.task, TextClassification):
            stored = StoredTeacher(store, self.engine.device, self.recipe.task.problem.signals)
            # All that lies on disk is in the unit of the labels.
            return self._scaler.of_teacher(stored) if self._scaler else stored
        return StoredTeacher(store, self.engine.device)

    def _member(self, name: str) -> "OpenedTeacher":
        recipe, inputs, teacher = one_of(self.recipe, self.inputs, self.lessons.teacher, name)
        return replace(self, recipe=recipe, inputs=inputs, lessons=replace(self.lessons, name=name, teacher=teacher))

    def with_features(self, distributions: Teacher, reads: frozenset[Read]) -> Teacher:
        """`distributions`, and beside it what gives the features that are read."""
        if not reads:
            return distributions
        if self.recipe.ensemble is not None:
            lead = self._member(lead_name(self.recipe.ensemble))
            # Beside the lead's features, not its distributions: those are of all.
            return CompositeTeacher(distributions, (lead.with_features(no_teacher, reads),))
        if self.recipe.label.features == "stored":
            stores = [self._store(features_of(self.lessons.name, part)) for part in by_part(reads)]
            return CompositeTeacher(distributions, tuple(StoredFeatures(store, self.engine.device) for store in stores))
        features = self._frozen(reads)
        # Its forward pass is made in each step anyway, and gives its distributions too.
        return features if self.recipe.label.mode == "online" else CompositeTeacher(distributions, (features,))

    def average_of(
        self, student: PreTrainedModel, settings: MovingAverageTeacher, reads: frozenset[Read]
    ) -> MovingAverage:
        """The moving average of this student."""
        ask, device = self.recipe.task.ask, self.engine.device
        return MovingAverage(student, device, ask, reads, decay=settings.decay, every=settings.every)

    @cached_property
    def _model(self) -> PreTrainedModel:
        """Loaded once, whether for distributions, for features, or for both."""
        model = load_teacher(self.recipe, self.run, self.lessons.teacher)
        if self._scaler:
            # Before its forward passes: in half precision numbers far from zero would lose what tells them apart.
            self._scaler.standardise(model)
        return model

    @property
    def _scaler(self) -> TargetScaler | None:
        return target_scaler_of(self.recipe, self.inputs.splits["train"].rows)

    def _frozen(self, reads: frozenset[Read]) -> Teacher:
        """The teacher's own forward pass, with these features, on the token ids of the student."""
        teacher = FrozenTeacher(self._model, self.engine.device, self.recipe.task.ask, reads)
        vocabulary = self.inputs.vocabulary
        # A student of an earlier round has the same vocabulary as this one.
        if vocabulary is None or is_round(self.lessons.name):
            return teacher
        return TokenMappedTeacher(teacher, vocabulary.kept)

    def _store(self, path: str) -> LabelStore:
        store = LabelStore(self.run.path(path))
        inputs = self.inputs.of_student if is_round(self.lessons.name) else self.inputs
        store.require(label_source(self.recipe, inputs, self.lessons.teacher, self.engine))
        return store
