"""evaluate, for token classification: entities in whole documents, put together from their windows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from potstill.data.batches import batches_by_length
from potstill.data.splits import stable_order
from potstill.data.tag_schemes import OUTSIDE
from potstill.data.tagged import TaggedRow
from potstill.data.words import EncodedWords
from potstill.measure import entities, quality
from potstill.measure.entities import Entity
from potstill.measure.word_speed import WordRequest
from potstill.progress import Advance
from potstill.recipe import Recipe
from potstill.records import (
    Agreement,
    ClassRow,
    Comparison,
    Disagreement,
    EvaluateRecord,
    ModelEvaluation,
)
from potstill.run_dir import RunDir
from potstill.stages import references
from potstill.stages.common import Inputs, reads_as_teacher
from potstill.stages.compared import (
    asked_of_all,
    cost_values,
    ensemble_speed,
    estimate,
    headline,
    measurement,
    pairs,
    parameters,
    speeds,
    weights_of,
    with_ensemble,
)
from potstill.stages.findings import findings
from potstill.stages.models import ModelFolder
from potstill.stages.queries import timed_rows
from potstill.targets import LogitTargets, plain_log_sum_exp
from potstill.tasks import TokenClassification
from potstill.teachers import FrozenTeacher, combined, route_numbers, routes_of
from potstill.training.engine import Engine

Logits = npt.NDArray[np.float32]
SHOWN_WORDS = 15
"""Before and after a span on which teacher and student differ."""


@dataclass(frozen=True)
class _Documents:
    """The test rows, with the answered words of all of them in one sequence, in the order of `encoded`."""

    rows: Sequence[TaggedRow]
    encoded: EncodedWords
    labels: Sequence[str]
    weights: quality.Weights
    """Resamples of whole documents: words of one are not independent."""

    @property
    def document_of(self) -> npt.NDArray[np.int64]:
        return np.repeat(self.encoded.documents, self.encoded.positions)

    @property
    def truth(self) -> npt.NDArray[np.int64]:
        return np.concatenate(self.encoded.labels)

    def shares(self, right: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        """Share of the words at which something holds, in each resample."""
        hits, counts = (
            np.bincount(self.document_of, weights=values, minlength=len(self.rows))
            for values in (right, np.ones(len(right)))
        )
        return quality.pooled_shares(hits, counts, self.weights)

    def tags(self, classes: npt.NDArray[np.int64]) -> list[list[str]]:
        """The tags of each document's words; a word without an answer is outside of all entities."""
        predicted = [[OUTSIDE] * len(row.tokens) for row in self.rows]
        words = np.concatenate([window.words for window in self.encoded.windows])
        for document, word, number in zip(self.document_of.tolist(), words.tolist(), classes.tolist(), strict=True):
            predicted[document][word] = self.labels[number]
        return predicted


def evaluate_words(
    run: RunDir, recipe: Recipe, inputs: Inputs, folders: Mapping[str, ModelFolder], engine: Engine
) -> EvaluateRecord:
    """Entity F1 with intervals over documents, agreement, speed, memory and size of all models."""
    rows = list(inputs.splits["test"].rows)
    encoded = as_student = _encoded(recipe, inputs, rows)
    if inputs.of_student is not inputs:
        # In other pieces and perhaps other windows; each word is answered once, in the order of the documents.
        as_student = _encoded(recipe, inputs.of_student, rows)
    documents = _Documents(rows, encoded, inputs.labels, quality.bootstrap_weights(len(rows), seed=recipe.seed))
    logits, counts = _answers(run, recipe, encoded, as_student, folders, engine)
    if recipe.ensemble is not None:
        targets = [LogitTargets(torch.from_numpy(logits[name])) for name in recipe.ensemble.of]
        as_one = combined(recipe.ensemble, targets, route_numbers(routes_of(recipe.ensemble, encoded, rows)))
        logits["teacher"] = as_one.logits_at(slice(None), 1.0, plain_log_sum_exp).numpy()
    counts, weights = with_ensemble(recipe, counts), weights_of(recipe, folders)
    speed = speeds(run, recipe, weights, _requests(recipe, inputs, folders, engine))
    predicted = {name: values.argmax(axis=1) for name, values in logits.items()}
    right = {name: classes == documents.truth for name, classes in predicted.items()}
    accuracy = {name: documents.shares(values) for name, values in right.items()}
    found = {
        name: [entities.entities_of(tags, inputs.labels) for tags in documents.tags(predicted[name])]
        for name in folders
    }
    truth = [entities.entities_of(row.tags or (), inputs.labels) for row in rows]
    scores = {name: _scores(truth, found["teacher"], each, documents.weights) for name, each in found.items()}
    models = {
        name: ModelEvaluation(
            accuracy=float(accuracy[name][0]),
            accuracy_interval=estimate(accuracy[name]),
            macro_f1=None,
            macro_f1_interval=None,
            scores={metric: estimate(values) for metric, values in scores[name].items()},
            cross_entropy=quality.cross_entropy(logits[name], documents.truth),
            expected_calibration_error=quality.expected_calibration_error(logits[name], documents.truth),
            **cost_values(weights[name], counts[name], speed[name]),
        )
        for name in folders
    }
    comparisons = [_comparison(of, against, right, accuracy, scores) for of, against in pairs(folders)]
    primary = recipe.task.primary_metric
    record = EvaluateRecord(
        test_rows=len(rows),
        test_words=len(documents.truth),
        models=models,
        agreement={
            name: _agreement(logits["teacher"], logits[name], right["teacher"], documents)
            for name in folders
            if name != "teacher"
        },
        comparisons=comparisons,
        floors={},
        references=references.of_tags(inputs, truth, scores["teacher"]["entity_f1"], documents.weights),
        classes=_kinds(truth, found, inputs.labels),
        disagreements=_disagreements(recipe, rows, truth, found),
        measurement=measurement(
            recipe, engine, rows=min(len(rows), recipe.evaluate.latency_rows), batch_size=recipe.evaluate.batch_size
        ),
        findings=[],
        **headline(models, primary, {name: each[primary] for name, each in scores.items()}, comparisons),
    )
    return record.model_copy(update={"findings": findings(record, asked_of_all(recipe))})


def _encoded(recipe: Recipe, inputs: Inputs, rows: Sequence[Any]) -> EncodedWords:
    encoded = recipe.task.encode(rows, inputs.tokenizer, inputs.labels)
    assert isinstance(encoded, EncodedWords)
    return encoded


def _answers(
    run: RunDir,
    recipe: Recipe,
    as_teacher: EncodedWords,
    as_student: EncodedWords,
    folders: Mapping[str, ModelFolder],
    engine: Engine,
) -> tuple[dict[str, Logits], dict[str, tuple[int, int]]]:
    """Of each model the logits of all answered words, and its parameters."""
    asked = [name for name in folders if not (recipe.ensemble and name == "teacher")]
    logits, counts = {}, {}
    with run.progress.task("evaluate: quality", len(as_teacher.ids) * len(asked), "windows") as advance:
        for name in asked:
            model = folders[name].load(recipe)
            counts[name] = parameters(recipe, model)
            teacher = FrozenTeacher(model, engine.device, recipe.task.ask)
            encoded = as_teacher if reads_as_teacher(recipe, name) else as_student
            logits[name] = _predict(teacher, encoded, recipe.label.batch_size, advance)
    return logits, counts


def _predict(teacher: FrozenTeacher, encoded: EncodedWords, batch_size: int, advance: Advance) -> Logits:
    parts: list[Logits] = [np.empty(0, dtype=np.float32)] * len(encoded.ids)
    for indices in batches_by_length(encoded.lengths, batch_size):
        batch = encoded.collate(indices)
        values = teacher(batch).logits
        assert values is not None
        answers = values[batch.mask.to(values.device)].float().cpu().numpy()
        ends = np.cumsum([encoded.positions[index] for index in indices])
        for index, part in zip(indices, np.split(answers, ends[:-1]), strict=True):
            parts[index] = part
        advance(len(indices))
    return np.concatenate(parts)


def _scores(
    truth: Sequence[Sequence[Entity]],
    teacher: Sequence[Sequence[Entity]],
    predicted: Sequence[Sequence[Entity]],
    weights: quality.Weights,
) -> dict[str, npt.NDArray[np.float64]]:
    found = entities.compare(truth, predicted)
    return {
        "entity_f1": entities.f1(found, weights),
        "entity_precision": entities.precision(found, weights),
        "entity_recall": entities.recall(found, weights),
        "entity_f1_with_the_teacher": entities.f1(entities.compare(teacher, predicted), weights),
    }


def _agreement(
    teacher: Logits, model: Logits, teacher_right: npt.NDArray[np.bool_], documents: _Documents
) -> Agreement:
    same, wrong = teacher.argmax(axis=1) == model.argmax(axis=1), ~teacher_right
    return Agreement(
        all_rows=estimate(documents.shares(same)),
        teacher_wrong=float(same[wrong].mean()) if wrong.any() else None,
        teacher_wrong_rows=int(wrong.sum()),
        kl_from_teacher=quality.kl(teacher, model),
    )


def _comparison(
    of: str,
    against: str,
    right: Mapping[str, npt.NDArray[np.bool_]],
    accuracy: Mapping[str, npt.NDArray[np.float64]],
    scores: Mapping[str, Mapping[str, npt.NDArray[np.float64]]],
) -> Comparison:
    return Comparison(
        of=of,
        against=against,
        accuracy_points=estimate(100 * (accuracy[of] - accuracy[against])),
        macro_f1_points=None,
        score_points={metric: estimate(100 * (scores[of][metric] - scores[against][metric])) for metric in scores[of]},
        only_of_right=int((right[of] & ~right[against]).sum()),
        only_against_right=int((right[against] & ~right[of]).sum()),
        mcnemar_p=None,
    )


def _kinds(
    truth: Sequence[Sequence[Entity]], found: Mapping[str, Sequence[Sequence[Entity]]], labels: Sequence[str]
) -> list[ClassRow]:
    """The share of each kind's entities that each model finds."""

    def found_by(name: str, kind: str) -> float | None:
        if name not in found:
            return None
        counted = entities.compare(truth, found[name], kind)
        return float(counted.right.sum() / counted.there.sum()) if counted.there.any() else None

    return [
        ClassRow(
            label=kind,
            rows=sum(entity[0] == kind for each in truth for entity in each),
            teacher_accuracy=found_by("teacher", kind),
            student_accuracy=found_by("student", kind),
            baseline_accuracy=found_by("baseline", kind),
        )
        for kind in entities.kinds_of(labels)
    ]


def _disagreements(
    recipe: Recipe,
    rows: Sequence[TaggedRow],
    truth: Sequence[Sequence[Entity]],
    found: Mapping[str, Sequence[Sequence[Entity]]],
) -> list[Disagreement]:
    """A sample, by stable hash, of the documents on which student and teacher differ: the first span of each."""
    differ = [
        (row, min(differing, key=lambda entity: entity[1:]))
        for row in range(len(rows))
        if (differing := set(found["student"][row]) ^ set(found["teacher"][row]))
    ]
    chosen = stable_order(differ, lambda each: rows[each[0]].id, salt="disagreements")
    shown = []
    for row, (_, start, end) in chosen[: recipe.evaluate.sample_disagreements]:
        words, low, high = rows[row].tokens, max(0, start - SHOWN_WORDS), end + SHOWN_WORDS

        def answer(predicted: Sequence[Sequence[Entity]], row: int = row, start: int = start, end: int = end) -> str:
            here = [each for each in predicted[row] if each[1] < end and each[2] > start]
            return "; ".join(f"{kind}: {' '.join(rows[row].tokens[a:b])}" for kind, a, b in here) or "nothing"

        shown.append(
            Disagreement(
                id=rows[row].id,
                text=" ".join(words[low:high]),
                truth=answer(truth),
                teacher=answer(found["teacher"]),
                student=answer(found["student"]),
                baseline=answer(found["baseline"]) if "baseline" in found else None,
            )
        )
    return shown


def _requests(
    recipe: Recipe, inputs: Inputs, folders: Mapping[str, ModelFolder], engine: Engine
) -> dict[str, WordRequest]:
    task, settings = recipe.task, recipe.evaluate
    assert isinstance(task, TokenClassification)
    documents = tuple(row.tokens for row in timed_rows(recipe, inputs))
    return {
        name: WordRequest(
            model=str(folder.path),
            documents=documents,
            max_length=task.max_length,
            overlap=task.overlap,
            threads=settings.threads,
            warmup=settings.warmup,
            batch_size=settings.batch_size,
            device=engine.device.type,
            trust_remote_code=folder.trust_remote_code,
            **(ensemble_speed(recipe, folders) if name == "teacher" else {}),
        )
        for name, folder in folders.items()
    }
