"""export: what is shipped, made from a student that passed, and judged again in its own runtime; skipped otherwise."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from potstill.errors import ModelError
from potstill.evaluation.kept_rows import ANSWERS, write_rows
from potstill.evaluation.shipping import (
    Form,
    JudgedForm,
    artefact_of,
    better_rival,
    judge_forms,
    rows_of,
    with_best,
)
from potstill.exporters import AnyExporter
from potstill.recipe import Recipe
from potstill.records import (
    AdaptRecord,
    Artefact,
    EvaluateRecord,
    ExportRecord,
    GateRecord,
    PlanRecord,
    TrainRecord,
)
from potstill.run_dir import RunDir, atomic_folder, file_digest, fingerprint, folder_files
from potstill.runtimes.folder import ModelFolder
from potstill.runtimes.predictor import Predictor
from potstill.stages.artefact_cards import complete
from potstill.stages.artefact_sources import COMPARED_ROWS, Exporting
from potstill.stages.first_weights import initial_student
from potstill.stages.gate import judge
from potstill.stages.inputs import Inputs
from potstill.stages.judged_rows import case_of
from potstill.training.engine import Engine

RIVALS = "rivals"
SEVERAL = "several teachers answer together, and none of them is the teacher alone."


def export(
    run: RunDir,
    recipe: Recipe,
    inputs: Inputs,
    planned: PlanRecord,
    teacher: AdaptRecord,
    student: TrainRecord,
    baseline: TrainRecord | None,
    rounded: Mapping[str, TrainRecord],
    evaluation: EvaluateRecord,
    verdict: GateRecord,
    engine: Engine,
) -> ExportRecord:
    """The artefacts that the recipe lists, each judged on all test rows as the student was.

    `rounded` are students that were trained for some of them, by name.

    Raises:
        ModelError: the student's files were changed since its training, or cannot be written in a form.
    """
    depends: dict[str, object] = {
        "passed": verdict.passed,
        "student": student.digest,
        "export": [exporter.model_dump(mode="json") for exporter in recipe.export],
    }
    if verdict.passed:
        # Cards show the figures of the evaluation.
        depends |= {"evaluation": fingerprint(evaluation), "card": recipe.card}
    if verdict.passed and not all(exporter.same_files for exporter in recipe.export):
        depends |= {
            "teacher": teacher.digest,
            "baseline": baseline.digest if baseline else None,
            "rounded": {name: record.digest for name, record in rounded.items()},
            "gate": recipe.gate,
        }

    def work(folder: Path) -> ExportRecord:
        if not verdict.passed:
            return ExportRecord(skipped=True, artefacts=[])
        exporting = Exporting(run, recipe, inputs, teacher, student, baseline, rounded, evaluation, engine)
        exporting.student_folder.require_unchanged()
        written = _written(exporting, folder)
        record = _judged(exporting, planned, written)
        shipped = [run.path(each.folder) for each in (*record.artefacts, *record.rivals)]
        files = dict(pair for each in shipped for pair in folder_files(each, relative_to=folder).items())
        if (folder / ANSWERS).is_file():
            files[ANSWERS] = file_digest(folder / ANSWERS)
        return record.model_copy(update={"files": files})

    return run.once("export", depends, ExportRecord, work)


@dataclass(frozen=True)
class _Written:
    """The folders of all forms, and why the teacher has none in some of them."""

    folder: Path
    artefacts: Mapping[str, AnyExporter]
    rivals: dict[str, AnyExporter] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def of_artefact(self, name: str) -> Path:
        return self.folder / name

    def of_rival(self, exporter: AnyExporter) -> Path:
        return self.folder / RIVALS / exporter.form


def _written(exporting: Exporting, folder: Path) -> _Written:
    """The student in each form, and the teacher in those that are not its own files."""
    written = _Written(folder, {exporter.name: exporter for exporter in exporting.recipe.export})
    # One for each form, whatever students there are of it.
    rivals = {f"teacher {each.form}": each for each in written.artefacts.values() if not each.same_files}
    total = len(written.artefacts) + len(rivals)
    with exporting.run.progress.task("export", total, "artefacts") as advance:
        for name, exporter in written.artefacts.items():
            with atomic_folder(written.of_artefact(name)) as target:
                exporter.export(exporting.student_source(exporter), target)
            advance(1)
        for name, exporter in rivals.items():
            advance(1)
            if exporting.recipe.teacher.members:
                written.missing[exporter.form] = SEVERAL
                continue
            try:
                with atomic_folder(written.of_rival(exporter)) as target:
                    exporter.export(exporting.teacher_source(), target)
                written.rivals[name] = exporter
            except ModelError as error:
                written.missing[exporter.form] = str(error)
    return written


def _judged(exporting: Exporting, planned: PlanRecord, written: _Written) -> ExportRecord:
    """The record of what was written, once all forms are judged side by side, and each folder is complete."""
    recipe, evaluation = exporting.recipe, exporting.evaluation
    models = exporting.models()
    own, other = exporting.inputs.of_student.tokenizer, exporting.inputs.tokenizer
    forms = {
        name: Form("student", exporting.predictor(ModelFolder(written.of_artefact(name)), own, exporter.runtime))
        for name, exporter in written.artefacts.items()
    } | {
        name: Form("teacher", exporting.predictor(ModelFolder(written.of_rival(exporter)), other, exporter.runtime))
        for name, exporter in written.rivals.items()
    }
    differences = {
        name: _difference(exporting, models[form.source], form.predictor, own if form.source == "student" else other)
        for name, form in forms.items()
    }
    judged: dict[str, JudgedForm] = {}
    again = {
        name: form
        for name, form in forms.items()
        if name not in written.artefacts or not written.artefacts[name].same_files
    }
    if again:
        untrained = partial(initial_student, recipe, exporting.inputs, exporting.run, exporting.teacher)
        case = case_of(recipe, exporting.inputs, exporting.run.progress, untrained=untrained)
        judged = judge_forms(case, models, again, exporting.timed_on([form.predictor for form in again.values()]))
        write_rows(written.folder / ANSWERS, rows_of(case, judged))

    def made(name: str, exporter: AnyExporter, folder: str, rival: str) -> Artefact:
        artefact = Artefact(
            kind=exporter.kind,
            name=name,
            folder=folder,
            size_bytes=forms[name].predictor.weights().size_bytes,
            max_logit_difference=differences[name].largest,
            passed=True,
            precision=exporter.precision,
            runtime=exporter.runtime,
        )
        if exporter.tolerance is not None and differences[name].share > exporter.tolerance:
            share = f"{differences[name].share:.2%}"
            why = f"Its outputs differ from those of the model that it was made of by {share}"
            artefact = artefact.model_copy(update={"passed": False, "why": why})
        if name not in judged:
            return artefact
        return artefact_of(artefact, judged[name], judge(recipe.gate, judged[name].evaluation), judged.get(rival))

    artefacts = [made(name, each, f"export/{name}", f"teacher {each.form}") for name, each in written.artefacts.items()]
    rivals = [made(name, each, f"export/{RIVALS}/{each.form}", "") for name, each in written.rivals.items()]
    for artefact in (*artefacts, *rivals):
        record = judged[artefact.name].evaluation if artefact.name in judged else evaluation
        complete(exporting.run.path(artefact.folder), artefact, recipe, planned, record)
    return with_best(
        ExportRecord(
            skipped=False,
            artefacts=artefacts,
            rivals=rivals,
            rivals_missing=written.missing,
            not_worth=better_rival(artefacts, rivals, evaluation.primary_metric),
            measurement=next((each.evaluation.measurement for each in judged.values()), None),
        )
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
