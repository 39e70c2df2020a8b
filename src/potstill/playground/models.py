"""The models of a run, each opened as what answers rows: teacher, student and baseline as artefacts are."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from potstill.artefacts.manifest import Manifest
from potstill.errors import ModelError, PotstillError
from potstill.loaded_as import IN_FLOAT32, TYPES, LoadedAs, placed
from potstill.presentation.formats import readable
from potstill.progress import Progress
from potstill.recipe import Recipe
from potstill.recipe.yaml_file import load_recipe
from potstill.records import AdaptRecord, Artefact, PlanRecord, TrainRecord, WeightsRecord
from potstill.records.current import current, evaluated_models
from potstill.run_dir import RESULT, R, RunDir, read_record
from potstill.runtimes.answering import Answerer, Asking, open_answerer
from potstill.runtimes.folder import ModelFolder
from potstill.runtimes.transformers_answering import answerer_of, load_reader
from potstill.stages.artefact_sources import described
from potstill.stages.models import teacher_folder
from potstill.tasks.classes import TEACHER
from potstill.tasks.loading import explained

STUDENTS = ("student", "baseline")
"""The models that a run trains to be shipped."""


@dataclass(frozen=True)
class Opened:
    """A model, ready to answer; or why it cannot be asked."""

    name: str
    form: str
    """In which form it answers, for people."""
    answer: Answerer | None
    error: str = ""


class FinishedModels:
    """What the records of a run say of its models.

    Raises:
        ModelError: the folder is of no run, or the run has no student yet.
        RunDirError: a record was changed since it was written.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        if not (run / "recipe.yaml").is_file():
            raise ModelError(f"{run}: no run directory. Give the folder that was --out of potstill run.")
        self.recipe: Recipe = load_recipe(run / "recipe.yaml")
        plan = self._record("plan", PlanRecord)
        self.trained = {
            name: found for name in STUDENTS if (found := self._record(f"train/{name}", TrainRecord)) is not None
        }
        if plan is None or "student" not in self.trained:
            raise ModelError(f"{run}: it has no trained student yet. Run: potstill run RECIPE --out {run}")
        self.plan = plan
        known = current(run)
        self.evaluation, self.gate, self.outdated = known.evaluation, known.gate, known.outdated
        self.export = known.export if self.gate and self.gate.passed else None

    def _record(self, stage: str, record: type[R]) -> R | None:
        return read_record(self.run / stage / RESULT, record)

    @property
    def notes(self) -> list[str]:
        """What must be known of the run before its models are looked at."""
        found = []
        if self.outdated:
            found.append(
                f"What {', '.join(self.outdated)} found is of another student or evaluation than lie here now, and is "
                f"left out. Run: potstill run RECIPE --out {self.run}"
            )
        if self.gate is None:
            found.append("No gate has judged this student yet.")
        elif not self.gate.passed:
            failed = ", ".join(readable(check.name) for check in self.gate.checks if not check.passed)
            found.append(f"This student failed its gate ({failed}), so no artefact was exported.")
        if self.recipe.teacher.members:
            found.append("This run has several teachers. Each answers here for itself, and not all of them as one.")
        return found

    def open_all(self, asking: Asking) -> Iterator[Opened]:
        """One after the other: teachers, student, baseline, artefacts, and the teacher in the same forms."""
        for name, member in self._teachers():
            yield opened(name, "as it taught", partial(self._teacher, member, asking))
        for name, record in self.trained.items():
            folder = ModelFolder(self.run / "train" / name / "model", digest=record.digest)
            about = self._about(name, record.digest)
            yield opened(name, "as it was trained", partial(self._saved, folder, about, asking))
        if self.export is not None:
            for artefact in (*self.export.artefacts, *self.export.rivals):
                answerer = partial(open_answerer, self.run / artefact.folder, asking)
                yield opened(artefact.name or artefact.kind, form_of(artefact), answerer)

    def _teachers(self) -> Iterator[tuple[str, str | None]]:
        """The name of each, and the same as the recipe has it where there are several."""
        members = self.recipe.teacher.members
        yield from ((f"teacher {name}", name) for name in members) if members else [("teacher", None)]

    def _teacher(self, member: str | None, asking: Asking) -> Answerer:
        recipe = self.recipe
        if member is not None:
            recipe = recipe.model_copy(update={"teacher": recipe.teacher.members[member]})
        stage = "adapt" if member is None else f"adapt/{member}"
        record = self._record(stage, AdaptRecord)
        if record is None:
            raise ModelError(
                f"{self.run / stage}: no record of this teacher. Run: potstill run RECIPE --out {self.run}"
            )
        held = as_planned(self.plan.weights.get(member or TEACHER))
        folder = teacher_folder(recipe, RunDir(self.run, Progress()), record, held)
        return self._saved(folder, self._about(member or "teacher", record.digest), asking)

    def _about(self, name: str, digest: str) -> Manifest:
        """What artefacts say of themselves, of a model by its name in the evaluation; its temperature is that of the
        model with this digest alone."""
        fitted = self.evaluation.calibration if self.evaluation is not None else {}
        calibration = fitted.get(name) if evaluated_models(self.run).get(name) == digest else None
        temperature = calibration and calibration.temperature
        return described(self.recipe.task, self.plan.labels, temperature or 1.0)

    def _saved(self, folder: ModelFolder, about: Manifest, asking: Asking) -> Answerer:
        """What answers from a model that no exporter wrote."""
        model = placed(folder.load(self.recipe.task), torch.device("cpu"))
        with explained(str(folder.path)):
            tokenizer = load_reader(folder.path, about, trust_remote_code=folder.trust_remote_code)
        return answerer_of(model, tokenizer, about, asking)


def as_planned(weights: WeightsRecord | None) -> LoadedAs:
    """How a teacher's weights are held while it answers, from what the plan says of them."""
    if weights is None:
        return IN_FLOAT32
    held = LoadedAs(next((each for each in TYPES if each == weights.answers), "float32"), spread=weights.spread)
    return replace(held, quantization=weights.quantization)  # type: ignore[arg-type]


def form_of(artefact: Artefact) -> str:
    told = f"{artefact.precision}, in {artefact.runtime}"
    return told if artefact.passed else f"{told}; it did not pass the gate"


def opened(name: str, form: str, answerer: Callable[[], Answerer]) -> Opened:
    """A model that is opened now; one that cannot be is told of in its place, so that the others can be asked."""
    try:
        return Opened(name, form, answerer())
    except PotstillError as error:
        return Opened(name, form, None, str(error))
