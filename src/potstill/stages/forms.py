"""The forms in which student and teacher can be shipped: each written once, and all of them measured side by side.

Neither asks the gate for its verdict, so that other thresholds write and measure nothing anew.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from potstill.atomic_files import share_files
from potstill.errors import ModelError
from potstill.evaluation.kept_rows import ANSWERS, write_rows
from potstill.evaluation.shipping import Form, JudgedForm, judge_forms, measured_if_required, rows_of
from potstill.exporters import AnyExporter, Source
from potstill.records import FormsRecord, MeasuredForm, WrittenForm
from potstill.run_dir import atomic_folder, file_digest, fingerprint, folder_files
from potstill.runtimes.folder import ModelFolder
from potstill.runtimes.predictor import Predictor
from potstill.stages.artefact_sources import COMPARED_ROWS, FORMS, SHARED, Exporting
from potstill.stages.first_weights import initial_student
from potstill.stages.judged_rows import case_of

MODEL = "model"
MEASURED = f"{FORMS}/measured"
SEVERAL = "several teachers answer together, and none of them is the teacher alone."


@dataclass(frozen=True)
class Written:
    """A form of the student or of the teacher, as it lies in the run."""

    exporter: AnyExporter
    source: str
    """The name of the model that it was made of."""
    folder: Path
    record: WrittenForm

    def ship_to(self, target: Path) -> None:
        """Its files in a folder of their own, of the same bytes on the disk.

        Raises:
            ModelError: they are not those that this run wrote.
        """
        self.require_unchanged()
        with atomic_folder(target) as temporary:
            share_files(self.folder / MODEL, temporary)

    def require_unchanged(self) -> None:
        """Raises ModelError: its files are not those that this run wrote."""
        if folder_files(self.folder / MODEL, relative_to=self.folder) != self.record.files:
            raise ModelError(
                f"{self.folder}: its files are not those that this run wrote, so what was measured is not of them. "
                "Remove this folder and run again, to write them anew."
            )


@dataclass(frozen=True)
class Forms:
    """All forms of a run by name, and why the teacher has none in some of them."""

    artefacts: Mapping[str, Written]
    rivals: Mapping[str, Written]
    missing: Mapping[str, str]

    @property
    def all(self) -> dict[str, Written]:
        return {**self.artefacts, **self.rivals}


def write_forms(exporting: Exporting) -> Forms:
    """The student in each form, and the teacher in those that are not its own files.

    Raises:
        ModelError: the student's files were changed since its training, or cannot be written in a form.
    """
    exporters = {exporter.name: exporter for exporter in exporting.recipe.export}
    # One for each form, whatever students there are of it.
    wanted = {each.form: each for each in exporters.values() if not each.same_files}
    missing: dict[str, str] = {}
    if exporting.recipe.teacher.members:
        missing, wanted = dict.fromkeys(wanted, SEVERAL), {}
    with _shared_while_made(exporting):
        artefacts = {name: _of_student(exporting, exporter) for name, exporter in exporters.items()}
    with _shared_while_made(exporting):
        tried = {form: _of_teacher(exporting, each) for form, each in wanted.items()}
    missing |= {form: each.record.missing for form, each in tried.items() if each.record.missing is not None}
    rivals = {f"teacher {form}": each for form, each in tried.items() if each.record.missing is None}
    return Forms(artefacts, rivals, missing)


@contextmanager
def _shared_while_made(exporting: Exporting) -> Iterator[None]:
    """What exports of the same model share is there until all of them are made, and nothing of it is from before."""
    folder = exporting.run.path(SHARED)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _of_student(exporting: Exporting, exporter: AnyExporter) -> Written:
    stage = f"{FORMS}/student/{exporter.name}"
    digest = exporting.folder_of_student(exporter).digest
    return _once(exporting, stage, "student", exporter, digest, lambda: exporting.student_source(exporter))


def _of_teacher(exporting: Exporting, exporter: AnyExporter) -> Written:
    stage = f"{FORMS}/teacher/{exporter.form}"
    return _once(exporting, stage, "teacher", exporter, exporting.teacher.digest, exporting.teacher_source)


def _once(
    exporting: Exporting, stage: str, name: str, exporter: AnyExporter, digest: str | None, source: Callable[[], Source]
) -> Written:
    depends = {
        "model": digest,
        # A training for this form is in the digest.
        "exporter": exporter.model_dump(mode="json", exclude={"distil"}),
        # By what it was made from: the rows, and with what speed is measured.
        "evaluation": exporting.evaluation.fingerprint,
        "temperature": exporting.temperature_of(name),
    }

    def work(folder: Path) -> WrittenForm:
        try:
            with atomic_folder(folder / MODEL) as target:
                exporter.export(source(), target)
        except ModelError as error:
            if name == "student":
                raise
            return WrittenForm(missing=str(error))
        return WrittenForm(files=folder_files(folder / MODEL, relative_to=folder))

    record = exporting.run.once(stage, depends, WrittenForm, work)
    return Written(exporter, name, exporting.run.path(stage), record)


def measure_forms(exporting: Exporting, forms: Forms) -> FormsRecord:
    """All forms side by side on all test rows; those that are new beside those that are not, for speed is only
    comparable where it was measured together."""
    gate = exporting.recipe.gate
    depends = {
        "evaluation": exporting.evaluation.fingerprint,
        "forms": {name: fingerprint(each.record) for name, each in forms.all.items()},
        "required": measured_if_required(gate),
    }
    return exporting.run.once(MEASURED, depends, FormsRecord, partial(_measured, exporting, forms))


def _measured(exporting: Exporting, forms: Forms, folder: Path) -> FormsRecord:
    recipe, inputs, models = exporting.recipe, exporting.inputs, exporting.models()
    tokenizers = {"student": inputs.of_student.tokenizer, "teacher": inputs.tokenizer}
    opened: dict[str, Form] = {}
    for name, each in forms.all.items():
        each.require_unchanged()
        model = ModelFolder(each.folder / MODEL)
        predictor = exporting.predictor(model, tokenizers[each.source], each.exporter.runtime)
        opened[name] = Form(each.source, predictor)
    differences = {
        name: _difference(exporting, models[form.source], form.predictor, tokenizers[form.source])
        for name, form in opened.items()
    }
    judged: dict[str, JudgedForm] = {}
    files = {}
    again = {name: form for name, form in opened.items() if not forms.all[name].exporter.same_files}
    if again:
        untrained = partial(initial_student, recipe, inputs, exporting.run, exporting.teacher)
        case = case_of(recipe, inputs, exporting.run.progress, untrained=untrained)
        judged = judge_forms(case, models, again, exporting.timed_on([form.predictor for form in again.values()]))
        write_rows(folder / ANSWERS, rows_of(case, judged))
        files = {ANSWERS: file_digest(folder / ANSWERS)}
    return FormsRecord(
        forms={name: _figures(opened[name], differences[name], judged.get(name)) for name in opened}, files=files
    )


def _figures(form: Form, difference: "_Difference", judged: JudgedForm | None) -> MeasuredForm:
    return MeasuredForm(
        size_bytes=form.predictor.weights().size_bytes,
        largest_difference=difference.largest,
        share=difference.share,
        evaluation=judged and judged.evaluation,
        agreement_with_source=judged and judged.agreement_with_source,
    )


@dataclass(frozen=True)
class _Difference:
    """How far outputs are from those of the model that a form was made of."""

    largest: float
    share: float
    """Of the largest output."""


def _difference(
    exporting: Exporting, model: Predictor, form: Predictor, tokenizer: PreTrainedTokenizerBase
) -> _Difference:
    """Over the first test rows."""
    rows = exporting.encoded(exporting.inputs.splits["test"].rows[:COMPARED_ROWS], tokenizer)
    batch = rows.collate(range(min(COMPARED_ROWS, len(rows.lengths))))
    one, other = (each.first_logits(batch, COMPARED_ROWS).float().cpu().numpy() for each in (model, form))
    form.release()
    largest = float(np.abs(one - other).max())
    return _Difference(largest, largest / max(1e-30, float(np.abs(one).max())))
