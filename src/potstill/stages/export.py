"""export: what is shipped, made from a student that passed, and judged again in its own runtime; skipped otherwise."""

from collections.abc import Mapping
from pathlib import Path

from potstill.atomic_files import share_file
from potstill.evaluation.kept_rows import ANSWERS
from potstill.evaluation.shipping import artefact_of, better_rival, with_best
from potstill.presentation.artefact_card import Origin
from potstill.recipe import Recipe
from potstill.records import (
    AdaptRecord,
    Artefact,
    EvaluateRecord,
    ExportRecord,
    FormsRecord,
    GateRecord,
    PlanRecord,
    TrainRecord,
)
from potstill.run_dir import RunDir, file_digest, fingerprint, folder_files
from potstill.stages.artefact_cards import complete
from potstill.stages.artefact_sources import Exporting
from potstill.stages.forms import MEASURED, Forms, Written, measure_forms, write_forms
from potstill.stages.gate import judge
from potstill.stages.inputs import Inputs
from potstill.training.engine import Engine

RIVALS = "rivals"


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
    if not verdict.passed:
        return run.once("export", depends, ExportRecord, lambda folder: ExportRecord(skipped=True, artefacts=[]))
    exporting = Exporting(run, recipe, inputs, teacher, student, baseline, rounded, evaluation, engine)
    forms = write_forms(exporting)
    measured = measure_forms(exporting, forms)
    # Cards show the figures of the evaluation.
    depends |= {
        "evaluation": fingerprint(evaluation),
        "card": recipe.card,
        "forms": fingerprint(measured),
        "missing": forms.missing,
    }
    if not all(exporter.same_files for exporter in recipe.export):
        depends |= {"gate": recipe.gate}

    def work(folder: Path) -> ExportRecord:
        exporting.student_folder.require_unchanged()
        record = _shipped(exporting, planned, forms, measured, folder)
        shipped = [run.path(each.folder) for each in (*record.artefacts, *record.rivals)]
        files = dict(pair for each in shipped for pair in folder_files(each, relative_to=folder).items())
        if (folder / ANSWERS).is_file():
            files[ANSWERS] = file_digest(folder / ANSWERS)
        return record.model_copy(update={"files": files})

    return run.once("export", depends, ExportRecord, work)


def _shipped(
    exporting: Exporting, planned: PlanRecord, forms: Forms, measured: FormsRecord, folder: Path
) -> ExportRecord:
    """The record of all forms, each gated by itself, and their folders, complete."""
    recipe, evaluation = exporting.recipe, exporting.evaluation

    def made(name: str, written: Written, place: str, rival: str) -> Artefact:
        exporter, figures = written.exporter, measured.forms[name]
        written.ship_to(folder / place)
        artefact = Artefact(
            kind=exporter.kind,
            name=name,
            folder=f"export/{place}",
            size_bytes=figures.size_bytes,
            max_logit_difference=figures.largest_difference,
            passed=True,
            precision=exporter.precision,
            runtime=exporter.runtime,
        )
        if exporter.tolerance is not None and figures.share > exporter.tolerance:
            why = f"Its outputs differ from those of the model that it was made of by {figures.share:.2%}"
            artefact = artefact.model_copy(update={"passed": False, "why": why})
        if figures.evaluation is not None:
            verdict = judge(recipe.gate, figures.evaluation)
            artefact = artefact_of(artefact, figures, verdict, measured.forms.get(rival))
        trained = exporting.student.planned_steps > 0 or exporter.distil is not None
        origin: Origin = "teacher" if written.source == "teacher" else "distilled" if trained else "untrained"
        complete(folder / place, artefact, recipe, planned, figures.evaluation or evaluation, origin=origin)
        return artefact

    artefacts = [made(name, each, name, f"teacher {each.exporter.form}") for name, each in forms.artefacts.items()]
    rivals = [made(name, each, f"{RIVALS}/{each.exporter.form}", "") for name, each in forms.rivals.items()]
    if (answers := exporting.run.path(MEASURED, ANSWERS)).is_file():
        share_file(answers, folder / ANSWERS)
    judged = [each.evaluation for each in measured.forms.values() if each.evaluation is not None]
    return with_best(
        ExportRecord(
            skipped=False,
            artefacts=artefacts,
            rivals=rivals,
            rivals_missing=dict(forms.missing),
            not_worth=better_rival(artefacts, rivals, evaluation.primary_metric),
            measurement=next((each.measurement for each in judged), None),
        )
    )
