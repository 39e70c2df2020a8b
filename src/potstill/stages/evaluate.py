"""evaluate: teacher, student and baseline on the same held-out rows and the same machine."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from potstill.data.batches import batches_by_length
from potstill.data.encoded import EncodedRows
from potstill.data.rows import Row
from potstill.data.splits import stable_order
from potstill.measure import quality
from potstill.measure.floor import tfidf_predictions
from potstill.measure.speed import SpeedRequest
from potstill.progress import Advance
from potstill.recipe import Recipe
from potstill.records import (
    AdaptRecord,
    Agreement,
    ClassRow,
    Comparison,
    Disagreement,
    EvaluateRecord,
    ModelEvaluation,
    TrainRecord,
)
from potstill.run_dir import RunDir
from potstill.signals import Signals
from potstill.stages import references
from potstill.stages.common import Inputs, alone, reads_as_teacher
from potstill.stages.compared import (
    DISAGREEMENT_CHARACTERS,
    Judged,
    asked_of_all,
    cost_values,
    ensemble_speed,
    estimate,
    headline,
    measurement,
    pairs,
    parameters,
    served_as,
    speeds,
    weights_of,
    with_ensemble,
)
from potstill.stages.evaluate_labels import judge_labels
from potstill.stages.evaluate_language import evaluate_language
from potstill.stages.evaluate_values import judge_values
from potstill.stages.evaluate_words import evaluate_words
from potstill.stages.findings import findings
from potstill.stages.first_weights import initial_student
from potstill.stages.floors import measured_floors
from potstill.stages.models import ModelFolder, teacher_folder
from potstill.stages.queries import timed_rows
from potstill.targets import LogitTargets, plain_log_sum_exp
from potstill.tasks import TextClassification, TokenClassification
from potstill.tasks.problem_types import ProblemType, SingleLabel
from potstill.teachers import FrozenTeacher, Mixture, Routed, combined, route_numbers, routes_of
from potstill.training.engine import Engine

Logits = npt.NDArray[np.float32]
MEASURES = 2
"""Raised where the same models would be given other figures than before."""


def evaluate(
    run: RunDir,
    recipe: Recipe,
    inputs: Inputs,
    adapted: AdaptRecord,
    student: TrainRecord,
    baseline: TrainRecord | None,
    earlier: Mapping[str, TrainRecord],
    engine: Engine,
) -> EvaluateRecord:
    """Quality with intervals, speed, memory and size of all models, and how they compare.

    `earlier` are students of earlier generations, by name.
    """
    digests = {"teacher": adapted.digest, "student": student.digest}
    if baseline is not None:
        digests["baseline"] = baseline.digest
    digests |= {name: record.digest for name, record in earlier.items()}
    members = adapted.members
    digests |= {name: member.digest for name, member in members.items()}
    depends = {
        "models": digests,
        "evaluate": recipe.evaluate,
        "learnt_from": recipe.label.responses.kind,
        "data": {name: split.fingerprint for name, split in inputs.splits.items()},
        "task": recipe.task,
        "seed": recipe.seed,
        "several": recipe.ensemble,
        # How models are measured and compared: a run that was measured in another way is measured again.
        "measures": MEASURES,
    }

    def work(folder: Path) -> EvaluateRecord:
        folders = {
            name: ModelFolder(run.path("train", name, "model"), digest=digest) for name, digest in digests.items()
        }
        folders["teacher"] = served_as(teacher_folder(recipe, run, adapted), adapted, inputs.lead)
        for name, member in members.items():
            own, own_inputs = alone(recipe, inputs, name)
            folders[name] = served_as(teacher_folder(own, run, member), member, own_inputs.lead)
        if isinstance(recipe.task, TokenClassification):
            return evaluate_words(run, recipe, inputs, folders, engine)
        if recipe.task.generative:
            untrained = initial_student(recipe, inputs, run, adapted)
            return evaluate_language(run, recipe, inputs, folders, untrained, engine)
        return _evaluate(run, recipe, inputs, folders, engine)

    return run.once("evaluate", depends, EvaluateRecord, work)


def _evaluate(
    run: RunDir, recipe: Recipe, inputs: Inputs, folders: Mapping[str, ModelFolder], engine: Engine
) -> EvaluateRecord:
    test = inputs.splits["test"].rows
    task = recipe.task
    assert isinstance(task, TextClassification)
    as_teacher = as_student = _encoded(recipe, inputs, test)
    if inputs.of_student is not inputs:
        as_student = _encoded(recipe, inputs.of_student, test)
    logits: dict[str, Logits] = {}
    counts: dict[str, tuple[int, int]] = {}
    asked = [name for name in folders if not (recipe.ensemble and name == "teacher")]
    with run.progress.task("evaluate: quality", len(test) * len(asked), "rows") as advance:
        for name in asked:
            model = folders[name].load(recipe)
            counts[name] = parameters(recipe, model)
            encoded = as_teacher if reads_as_teacher(recipe, name) else as_student
            logits[name] = _predict(
                FrozenTeacher(model, engine.device, task.ask), task.problem, encoded, recipe.label.batch_size, advance
            )
    if recipe.ensemble is not None:
        # What the student learnt from is all of them together.
        members = [logits[name] for name in recipe.ensemble.of]
        logits["teacher"] = _as_one(recipe.ensemble, task.problem, members, as_teacher, test)
    counts, weights = with_ensemble(recipe, counts), weights_of(recipe, folders)
    speed = speeds(run, recipe, weights, _requests(recipe, inputs, folders, engine))
    # In one order everywhere, however the models were asked.
    logits = {name: logits[name] for name in folders}
    judged = _judged(run, recipe, inputs, logits, as_teacher.labels)
    models = {
        name: ModelEvaluation(
            **judged.quality[name],
            **cost_values(weights[name], counts[name], speed[name]),
        )
        for name in folders
    }
    record = EvaluateRecord(
        test_rows=len(test),
        models=models,
        agreement=judged.agreement,
        comparisons=judged.comparisons,
        floors=judged.floors,
        floors_missing=judged.floors_missing,
        references=judged.references,
        classes=judged.classes,
        disagreements=judged.disagreements,
        problem_type=task.problem_type,
        measurement=measurement(
            recipe, engine, rows=min(len(test), recipe.evaluate.latency_rows), batch_size=recipe.evaluate.batch_size
        ),
        findings=[],
        **headline(models, task.primary_metric, judged.primary, judged.comparisons),
    )
    return record.model_copy(update={"findings": findings(record, asked_of_all(recipe))})


def _encoded(recipe: Recipe, inputs: Inputs, rows: Sequence[Any]) -> EncodedRows:
    encoded = recipe.task.encode(rows, inputs.tokenizer, inputs.labels)
    assert isinstance(encoded, EncodedRows)
    return encoded


def _judged(
    run: RunDir, recipe: Recipe, inputs: Inputs, outputs: Mapping[str, Logits], labels: npt.NDArray[Any]
) -> Judged:
    assert isinstance(recipe.task, TextClassification)
    match recipe.task.problem_type:
        case "multi_label_classification":
            return judge_labels(run, recipe, inputs, outputs, labels)
        case "regression":
            return judge_values(run, recipe, inputs, outputs, labels)
        case _:
            return _judge_classes(run, recipe, inputs, outputs, labels)


def _judge_classes(
    run: RunDir, recipe: Recipe, inputs: Inputs, logits: Mapping[str, Logits], truth: npt.NDArray[np.int64]
) -> Judged:
    """The models by their logits of one class for each text."""
    weights = quality.bootstrap_weights(len(truth), seed=recipe.seed)
    predicted = {name: values.argmax(axis=1) for name, values in logits.items()}
    right = {name: classes == truth for name, classes in predicted.items()}
    accuracy = {name: quality.accuracies(values, weights) for name, values in right.items()}

    def floor(taught: Sequence[Row], asked: Sequence[str]) -> dict[str, npt.NDArray[np.float64]]:
        known = SingleLabel().targets(taught, inputs.labels).tolist()
        found = np.array(tfidf_predictions([row.text for row in taught], known, asked, seed=recipe.seed))
        return {
            "accuracy": quality.accuracies(found == truth, weights),
            "macro_f1": quality.macro_f1s(truth, found, len(inputs.labels), weights[:1]),
        }

    floors = measured_floors(run, recipe, inputs, "accuracy", accuracy, floor)
    macro_f1 = {
        name: quality.macro_f1s(truth, classes, len(inputs.labels), weights) for name, classes in predicted.items()
    }
    return Judged(
        quality={name: _quality(logits[name], truth, accuracy[name], macro_f1[name]) for name in logits},
        primary=accuracy,
        agreement={
            name: _agreement(logits["teacher"], logits[name], right["teacher"], weights)
            for name in logits
            if name != "teacher"
        },
        comparisons=[_comparison(of, against, right, accuracy, macro_f1) for of, against in pairs(logits)],
        floors=floors.fitted,
        floors_missing=floors.missing,
        references=[
            *references.of_floor(floors, "accuracy", accuracy["teacher"], "logistic"),
            *references.of_single_label(inputs, truth, accuracy["teacher"], weights),
        ],
        classes=_classes(inputs.labels, truth, predicted),
        disagreements=_disagreements(recipe, inputs, inputs.splits["test"].rows, truth, predicted),
    )


def _predict(
    teacher: FrozenTeacher, problem: ProblemType, rows: EncodedRows, batch_size: int, advance: Advance
) -> Logits:
    result: Logits | None = None
    for indices in batches_by_length(rows.lengths, batch_size):
        values = problem.outputs(teacher(rows.collate(indices)))
        if result is None:
            result = np.empty((len(rows.ids), values.shape[-1]), dtype=np.float32)
        result[indices] = values.float().cpu().numpy()
        advance(len(indices))
    assert result is not None
    return result


def _as_one(
    ensemble: Mixture | Routed,
    problem: ProblemType,
    members: Sequence[Logits],
    encoded: EncodedRows,
    rows: Sequence[Row],
) -> Logits:
    """The outputs of several teachers as one, at temperature 1."""
    targets, shape = [], torch.Size()
    for outputs in members:
        logits = problem.signals(torch.from_numpy(outputs)).logits
        assert logits is not None
        shape = logits.shape
        targets.append(LogitTargets(logits.reshape(-1, shape[-1])))
    numbers = route_numbers(routes_of(ensemble, encoded, rows))
    predicted = combined(ensemble, targets, numbers).logits_at(slice(None), 1.0, plain_log_sum_exp)
    as_one: Logits = problem.outputs(Signals(logits=predicted.reshape(shape))).numpy()
    return as_one


def _requests(
    recipe: Recipe, inputs: Inputs, folders: Mapping[str, ModelFolder], engine: Engine
) -> dict[str, SpeedRequest]:
    settings = recipe.evaluate
    texts = tuple(row.text for row in timed_rows(recipe, inputs))
    return {
        name: SpeedRequest(
            model=str(folder.path),
            texts=texts,
            max_length=recipe.task.max_length,
            threads=settings.threads,
            warmup=settings.warmup,
            batch_size=settings.batch_size,
            device=engine.device.type,
            trust_remote_code=folder.trust_remote_code,
            **(ensemble_speed(recipe, folders) if name == "teacher" else {}),
        )
        for name, folder in folders.items()
    }


def _quality(
    logits: Logits,
    truth: npt.NDArray[np.int64],
    accuracy: npt.NDArray[np.float64],
    macro_f1: npt.NDArray[np.float64],
) -> dict[str, Any]:
    return {
        "accuracy": float(accuracy[0]),
        "accuracy_interval": estimate(accuracy),
        "macro_f1": float(macro_f1[0]),
        "macro_f1_interval": estimate(macro_f1),
        "cross_entropy": quality.cross_entropy(logits, truth),
        "expected_calibration_error": quality.expected_calibration_error(logits, truth),
    }


def _agreement(
    teacher: Logits, model: Logits, teacher_right: npt.NDArray[np.bool_], weights: quality.Weights
) -> Agreement:
    same = teacher.argmax(axis=1) == model.argmax(axis=1)
    wrong = ~teacher_right
    return Agreement(
        all_rows=estimate(quality.accuracies(same, weights)),
        teacher_wrong=float(same[wrong].mean()) if wrong.any() else None,
        teacher_wrong_rows=int(wrong.sum()),
        kl_from_teacher=quality.kl(teacher, model),
    )


def _comparison(
    of: str,
    against: str,
    right: Mapping[str, npt.NDArray[np.bool_]],
    accuracy: Mapping[str, npt.NDArray[np.float64]],
    macro_f1: Mapping[str, npt.NDArray[np.float64]],
) -> Comparison:
    only_of, only_against, p = quality.mcnemar(right[of], right[against])
    return Comparison(
        of=of,
        against=against,
        accuracy_points=estimate(100 * (accuracy[of] - accuracy[against])),
        macro_f1_points=estimate(100 * (macro_f1[of] - macro_f1[against])),
        only_of_right=only_of,
        only_against_right=only_against,
        mcnemar_p=p,
    )


def _classes(
    labels: list[str], truth: npt.NDArray[np.int64], predicted: Mapping[str, npt.NDArray[np.int64]]
) -> list[ClassRow]:
    by_model = {name: quality.per_class_accuracy(truth, classes, len(labels)) for name, classes in predicted.items()}
    nothing = [None] * len(labels)
    return [
        ClassRow(
            label=label,
            rows=int((truth == number).sum()),
            teacher_accuracy=by_model["teacher"][number],
            student_accuracy=by_model["student"][number],
            baseline_accuracy=by_model.get("baseline", nothing)[number],
        )
        for number, label in enumerate(labels)
    ]


def _disagreements(
    recipe: Recipe,
    inputs: Inputs,
    test: Sequence[Row],
    truth: npt.NDArray[np.int64],
    predicted: Mapping[str, npt.NDArray[np.int64]],
) -> list[Disagreement]:
    """A sample, by stable hash, of the rows on which student and teacher differ."""
    differ = np.nonzero(predicted["student"] != predicted["teacher"])[0].tolist()
    chosen = stable_order(differ, lambda row: test[row].id, salt="disagreements")
    names = inputs.labels
    return [
        Disagreement(
            id=test[row].id,
            text=test[row].text[:DISAGREEMENT_CHARACTERS],
            truth=names[truth[row]],
            teacher=names[predicted["teacher"][row]],
            student=names[predicted["student"][row]],
            baseline=names[predicted["baseline"][row]] if "baseline" in predicted else None,
        )
        for row in chosen[: recipe.evaluate.sample_disagreements]
    ]
