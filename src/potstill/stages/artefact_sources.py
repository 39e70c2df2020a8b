"""Student and teacher as exporters take them, and as their artefacts are compared with."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from potstill.artefacts.manifest import Manifest
from potstill.data.encoded import Encoded
from potstill.data.token_rows import TokenRows
from potstill.evaluation.judges import JUDGES
from potstill.exporters import AnyExporter, Source
from potstill.progress import Progress
from potstill.recipe import Recipe
from potstill.records import AdaptRecord, EvaluateRecord, TrainRecord
from potstill.run_dir import SCRATCH, RunDir, fingerprint
from potstill.runtimes.folder import ModelFolder
from potstill.runtimes.predictor import Predictor, open_predictor
from potstill.stages.inputs import Inputs
from potstill.stages.judged_rows import case_of
from potstill.stages.models import teacher_folder, teacher_predictor
from potstill.stages.rounded_student import rounded_name
from potstill.tasks import AnyTask
from potstill.training.engine import Engine

FORMS = "forms"
"""Below it lies each form of a model, as its exporter wrote it."""
SHARED = f"{FORMS}/{SCRATCH}"
COMPARED_ROWS = 64
"""Test rows over which outputs are compared one by one."""


@dataclass(frozen=True)
class Exporting:
    """What all artefacts of a run are made with."""

    run: RunDir
    recipe: Recipe
    inputs: Inputs
    teacher: AdaptRecord
    student: TrainRecord
    baseline: TrainRecord | None
    rounded: Mapping[str, TrainRecord]
    """Students that were trained for some artefacts, by name."""
    evaluation: EvaluateRecord
    engine: Engine

    @cached_property
    def student_folder(self) -> ModelFolder:
        return ModelFolder(self.run.path("train/student/model"), digest=self.student.digest)

    def predictor(self, folder: ModelFolder, tokenizer: PreTrainedTokenizerBase, runtime: str) -> Predictor:
        return open_predictor(
            folder,
            task=self.recipe.task,
            tokenizer=tokenizer,
            device=self.engine.device,
            batch_size=self.recipe.label.batch_size,
            runtime=runtime,
        )

    def models(self) -> dict[str, Predictor]:
        """Teacher, student and baseline as they were evaluated."""
        own = self.inputs.of_student.tokenizer
        models = {
            "teacher": teacher_predictor(self.recipe, self.run, self.inputs, self.teacher, self.engine),
            "student": self.predictor(self.student_folder, own, "transformers"),
        }
        if self.baseline is not None:
            folder = ModelFolder(self.run.path("train/baseline/model"), digest=self.baseline.digest)
            models["baseline"] = self.predictor(folder, own, "transformers")
        return models

    def timed_on(self, forms: Sequence[Predictor]) -> str:
        """The device on which forms and models are timed: graphs run on the processor, and so must all beside them."""
        on_processor = any(form.device.type == "cpu" for form in forms)
        return "cpu" if on_processor else self.engine.device.type

    def encoded(self, rows: Sequence[Any], tokenizer: PreTrainedTokenizerBase) -> Encoded:
        own = self.inputs if tokenizer is self.inputs.tokenizer else self.inputs.of_student
        return own.encoded(self.recipe, rows)

    def folder_of_student(self, exporter: AnyExporter) -> ModelFolder:
        """The student as it was trained for this artefact, where it was."""
        if (trained := self.rounded.get(exporter.name)) is not None:
            return ModelFolder(self.run.path("train", rounded_name(exporter), "model"), digest=trained.digest)
        return self.student_folder

    def student_source(self, exporter: AnyExporter) -> Source:
        return self._source("student", self.folder_of_student(exporter), self.inputs.of_student.tokenizer)

    def teacher_source(self) -> Source:
        return self._source("teacher", teacher_folder(self.recipe, self.run, self.teacher), self.inputs.tokenizer)

    def _source(self, name: str, folder: ModelFolder, tokenizer: PreTrainedTokenizerBase) -> Source:
        def calibration(most: int) -> Iterator[Mapping[str, Tensor]]:
            rows = self.encoded(self.inputs.splits["train"].rows[:most], tokenizer)
            return (rows.collate([index]).inputs for index in range(len(rows.lengths)))

        def texts() -> list[str]:
            rows = self.encoded(self.inputs.splits["test"].rows[:COMPARED_ROWS], tokenizer)
            assert isinstance(rows, TokenRows)
            return [str(tokenizer.decode(each.ids, clean_up_tokenization_spaces=False)) for each in rows.examples]

        return Source(
            folder=folder.path,
            load=partial(folder.load, self.recipe.task),
            inputs=_of_two_lengths(self.encoded(self.inputs.splits["test"].rows[:COMPARED_ROWS], tokenizer)),
            calibration=calibration,
            embedding_parameters=self.recipe.task.embedding_parameters,
            about=self._about(name, tokenizer),
            tokenizer=tokenizer,
            texts=texts,
            own_code=folder.trust_remote_code,
            shared=self.run.path(SHARED, fingerprint(str(folder.path))),
        )

    def _about(self, name: str, tokenizer: PreTrainedTokenizerBase) -> Manifest:
        return replace(
            described(self.recipe.task, self.inputs.labels, self.temperature_of(name)),
            truncation_side=tokenizer.truncation_side,
            pad_id=tokenizer.pad_token_id or 0,
            lengths=self._timed_lengths(tokenizer),
        )

    def temperature_of(self, name: str) -> float:
        """That of the model as it was evaluated: 8 bits move it by less than its validation rows could tell."""
        calibration = self.evaluation.calibration.get(name)
        return (calibration and calibration.temperature) or 1.0

    def _timed_lengths(self, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
        """Of what speed is measured with."""
        case = case_of(self.recipe, self.inputs, Progress())
        queries = JUDGES[self.recipe.task.answers].queries(case)
        if queries.form == "texts":
            return tuple(map(int, self.encoded(case.timed_rows, tokenizer).lengths))
        own = queries.of_student if tokenizer is not self.inputs.tokenizer else None
        return tuple(map(len, own or queries.items))


def described(task: AnyTask, labels: Sequence[str], temperature: float) -> Manifest:
    """What a model of a run says of itself, in whatever form it answers."""
    settings = task.model_dump()
    return Manifest(
        kind="",
        precision="",
        runtime="",
        model_file="",
        task=task.kind,
        answers=task.answers,
        labels=tuple(labels) if task.named_outputs else (),
        max_length=settings.get("max_length", 0),
        overlap=settings.get("overlap", 0),
        max_target_length=settings.get("max_target_length", 0),
        temperature=temperature,
    )


def _of_two_lengths(rows: Encoded) -> Mapping[str, Tensor]:
    """The longest row and the shortest: what is traced of a batch of one, or of one token, is true of that alone."""
    order = sorted(range(len(rows.lengths)), key=lambda index: -rows.lengths[index])
    return rows.collate([order[0], order[-1]] if len(order) > 1 else [order[0], order[0]]).inputs
