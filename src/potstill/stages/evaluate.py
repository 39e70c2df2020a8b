"""evaluate: teacher, student and baseline on the same held-out rows and the same machine."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from potstill.data.rows import labelled_rows, rows_fingerprint
from potstill.evaluation.answers import CAME
from potstill.evaluation.calibration import METHOD
from potstill.evaluation.evaluate import evaluate_models
from potstill.evaluation.harness import harness_scores
from potstill.evaluation.kept_rows import ANSWERS, FORM, write_rows
from potstill.evaluation.slices import field_values
from potstill.measure.weights import HALF, SavedWeights, saved_weights
from potstill.recipe import Recipe
from potstill.records import AdaptRecord, EvaluateRecord, HarnessRecord, TrainRecord
from potstill.records.current import COMMANDED
from potstill.run_dir import RunDir, file_digest, fingerprint, write_json, write_text
from potstill.runtimes.ensemble import EnsemblePredictor
from potstill.runtimes.folder import ModelFolder
from potstill.runtimes.predictor import Predictor, open_predictor
from potstill.stages.first_weights import initial_student
from potstill.stages.inputs import Inputs
from potstill.stages.judged_rows import case_of
from potstill.stages.models import teacher_folder, teacher_predictor
from potstill.stages.teacher_files import Files
from potstill.stages.teacher_members import alone
from potstill.stages.teacher_weights import stored_type
from potstill.teachers import Mixture, Routed
from potstill.training.engine import Engine

MEASURES = 5
"""Raised where the same models would be given other figures than before."""
CALIBRATION = "calibration.json"
"""The temperatures of all models."""


def evaluate(
    run: RunDir,
    recipe: Recipe,
    inputs: Inputs,
    adapted: AdaptRecord,
    student: TrainRecord,
    baseline: TrainRecord | None,
    earlier: Mapping[str, TrainRecord],
    came: AdaptRecord | None,
    engine: Engine,
) -> EvaluateRecord:
    """Quality with intervals, speed, memory and size of all models, and how they compare.

    `earlier` are students of earlier rounds, by name, and `came` is a student that existed already, as it was.
    """
    digests = {"teacher": adapted.digest, "student": student.digest}
    if baseline is not None:
        digests["baseline"] = baseline.digest
    if came is not None:
        digests[CAME] = came.digest
    digests |= {name: record.digest for name, record in earlier.items()}
    digests |= {name: member.digest for name, member in adapted.members.items()}
    depends = {
        "models": digests,
        "evaluate": recipe.evaluate.model_copy(update={"harness": None}),
        "learnt_from": recipe.label.responses.kind,
        "data": {name: split.fingerprint for name, split in inputs.splits.items()},
        "out_of_domain": rows_fingerprint(inputs.out_of_domain),
        "unanswerable": rows_fingerprint(inputs.unanswerable),
        "task": recipe.task,
        "seed": recipe.seed,
        "several": recipe.teacher if recipe.teacher.members else None,
        **inputs.loaded_as_in_digests,
        # Values beside the rows are not in their fingerprints.
        "slices": {
            field: fingerprint(field_values(inputs.splits["test"].rows, field)) for field in recipe.evaluate.kept_fields
        },
        # How models are measured and compared: a run that was measured in another way is measured again.
        "measures": MEASURES,
        # What each model answers to each row is kept; a run from before is evaluated again.
        "answers": FORM,
    }

    def work(folder: Path) -> EvaluateRecord:
        case = case_of(recipe, inputs, run.progress, untrained=partial(initial_student, recipe, inputs, run, adapted))
        predictors = _predictors(run, recipe, inputs, adapted, digests, engine)
        teacher = predictors["teacher"]
        routed = isinstance(teacher, EnsemblePredictor) and teacher.by_domain
        answer_all = () if routed else tuple(adapted.members)
        keep = partial(write_rows, folder / ANSWERS)
        record = evaluate_models(case, predictors, engine.device.type, answer_all=answer_all, keep=keep)
        for name in COMMANDED:
            write_text(folder / name, run.path(name).read_text(encoding="utf-8"))
        record = record.model_copy(
            update={"files": {name: file_digest(folder / name) for name in (ANSWERS, *COMMANDED)}}
        )
        return _with_temperatures(folder, record, inputs)

    record = run.once("evaluate", depends, EvaluateRecord, work)
    settings = recipe.evaluate.harness
    if settings is None:
        return record

    def tasks(folder: Path) -> HarnessRecord:
        predictors = _predictors(run, recipe, inputs, adapted, digests, engine)
        return harness_scores(settings, inputs.harness, predictors, run.progress)

    # By itself, so that a task that cannot be run costs no measurement of the others.
    asked = {
        "models": digests,
        "harness": settings,
        "tasks": [[task.name, task.digest] for task in inputs.harness],
        **inputs.loaded_as_in_digests,
    }
    found = run.once("harness", asked, HarnessRecord, tasks, last_bits=["harness.batch_size"])
    return record.model_copy(update={"harness": found})


def _with_temperatures(folder: Path, record: EvaluateRecord, inputs: Inputs) -> EvaluateRecord:
    """The record, with a file of what was fitted of each model, for those who serve one."""
    if not record.calibration:
        return record
    path, rows = folder / CALIBRATION, labelled_rows(inputs.splits["validation"].rows)
    models = {
        name: {"temperature": each.temperature, "decisions": each.decisions, "reason": each.reason}
        for name, each in record.calibration.items()
    }
    fitted_on = {"split": "validation", "rows": len(rows), "fingerprint": rows_fingerprint(rows)}
    write_json(path, {"method": METHOD, "fitted_on": fitted_on, "models": models})
    return record.model_copy(update={"files": record.files | {CALIBRATION: file_digest(path)}})


def _predictors(
    run: RunDir, recipe: Recipe, inputs: Inputs, adapted: AdaptRecord, digests: Mapping[str, str], engine: Engine
) -> dict[str, Predictor]:
    """All models by name, in the order in which they are shown."""

    def opened(folder: ModelFolder, tokenizer: PreTrainedTokenizerBase) -> Predictor:
        return open_predictor(
            folder, task=recipe.task, tokenizer=tokenizer, device=engine.device, batch_size=recipe.label.batch_size
        )

    predictors: dict[str, Predictor] = {}
    for name, digest in digests.items():
        if name == "teacher":
            folder = served_as(teacher_folder(recipe, run, adapted, inputs.lead.loaded_as), adapted, inputs.lead)
            predictors[name] = teacher_predictor(recipe, run, inputs, adapted, engine, folder)
        elif name in adapted.members:
            own, own_inputs = alone(recipe, inputs, name)
            member = adapted.members[name]
            own_folder = teacher_folder(own, run, member, own_inputs.lead.loaded_as)
            folder = served_as(own_folder, member, own_inputs.lead)
            predictors[name] = opened(folder, inputs.tokenizer)
        else:
            folder = ModelFolder(run.path("train", name, "model"), digest=digest)
            predictors[name] = opened(folder, inputs.of_student.tokenizer)
    if isinstance(recipe.teacher, Mixture | Routed):
        rows = inputs.splits["test"].rows
        if recipe.teacher.route is not None and not recipe.task.generative:
            rows = [*rows, *inputs.splits["validation"].rows]
        predictors["teacher"] = EnsemblePredictor(recipe.teacher, predictors, recipe.task, rows)
    return predictors


def served_as(folder: ModelFolder, adapted: AdaptRecord, source: Files) -> ModelFolder:
    """The folder of a teacher, with what it would be served as instead of its student.

    What lies in the run is in float32. A teacher in a quantised file is served as that file, and one that was adapted
    in the type that it came in, where that is one that a model can be trained in.
    """
    if adapted.converted and Path(source.location).exists():
        return replace(folder, served=saved_weights(Path(source.location)))
    weights = saved_weights(folder.path)
    if (adapted.adapted or adapted.converted) and (came_in := stored_type(source.location, source.config)) in HALF:
        weights = SavedWeights(came_in, weights.size_bytes // 2)
    return replace(folder, served=weights)
