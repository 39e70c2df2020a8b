"""A tag for each word: entities in whole documents, put together from their windows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from potstill.data.splits import stable_order
from potstill.data.tag_schemes import OUTSIDE
from potstill.data.tagged import TaggedRow
from potstill.data.words import EncodedWords
from potstill.evaluation import references
from potstill.evaluation.answers import Judged, agreed, class_rows, disagreement, outputs_of
from potstill.evaluation.calibration import Temperature, calibration_records, temperatures_of
from potstill.evaluation.case import Case
from potstill.evaluation.formulas import Resampled
from potstill.evaluation.kept_rows import ModelRows
from potstill.evaluation.metrics import Measured
from potstill.evaluation.regressions import ShownRow, regressions_of
from potstill.evaluation.slices import RowScores, slices_of
from potstill.measure import entities, quality
from potstill.measure.entities import Entity
from potstill.records import Agreement, Disagreement
from potstill.runtimes.predictor import Outputs, Predictor, Queries
from potstill.tasks import TokenClassification

Right = npt.NDArray[np.bool_]
SHOWN_WORDS = 15
"""Before and after a span on which teacher and student differ."""


@dataclass(frozen=True)
class TagAnswers:
    """The logits of each model at all answered words of the documents in one sequence, in the order of `encoded`."""

    logits: Mapping[str, Outputs]
    rows: Sequence[TaggedRow]
    encoded: EncodedWords
    labels: Sequence[str]
    weights: quality.Weights
    """Resamples of whole documents: words of one are not independent."""
    temperatures: Mapping[str, Temperature] = field(default_factory=dict)

    independent = False

    @property
    def models(self) -> Sequence[str]:
        return list(self.logits)

    @cached_property
    def document_of(self) -> npt.NDArray[np.int64]:
        return np.repeat(self.encoded.documents, self.encoded.positions)

    @cached_property
    def word_of(self) -> npt.NDArray[np.int64]:
        """The number of each word in its document."""
        return np.concatenate([window.words for window in self.encoded.windows])

    @cached_property
    def truth(self) -> npt.NDArray[np.int64]:
        return np.concatenate(self.encoded.labels)

    @cached_property
    def true_entities(self) -> list[list[Entity]]:
        return [entities.entities_of(row.tags or (), self.labels) for row in self.rows]

    @cached_property
    def predicted_entities(self) -> dict[str, list[list[Entity]]]:
        """Of each model the entities of each document."""
        return {
            model: [entities.entities_of(tags, self.labels) for tags in self._tags(logits.argmax(axis=1))]
            for model, logits in self.logits.items()
        }

    def _tags(self, classes: npt.NDArray[np.int64]) -> list[list[str]]:
        """The tags of each document's words; a word without an answer is outside of all entities."""
        predicted = [[OUTSIDE] * len(row.tokens) for row in self.rows]
        words = self.word_of.tolist()
        for document, word, number in zip(self.document_of.tolist(), words, classes.tolist(), strict=True):
            predicted[document][word] = self.labels[number]
        return predicted

    def right(self, model: str) -> Right:
        return np.asarray(self.logits[model].argmax(axis=1) == self.truth)

    def in_documents(self, values: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
        """The sum over the words of each document."""
        return np.bincount(self.document_of, weights=values, minlength=len(self.rows)).astype(np.float64)

    def share(self, values: Right) -> Resampled:
        hits, counts = map(self.in_documents, (values, np.ones(len(values))))
        return quality.pooled_shares(hits, counts, self.weights)

    def distributions(self, model: str) -> tuple[Outputs, npt.NDArray[np.int64]]:
        return self.logits[model], self.truth

    def confidence(self, model: str) -> tuple[npt.NDArray[np.float64], Right]:
        return quality.confidences(*self.distributions(model))

    def agreement(self, model: str) -> Agreement:
        teacher, own = self.logits["teacher"], self.logits[model]
        same = teacher.argmax(axis=1) == own.argmax(axis=1)
        return agreed(self.share(same), same, ~self.right("teacher"), quality.kl(teacher, own))

    def f1(self, model: str) -> Resampled:
        return entities.f1(self.compared(model), self.weights)

    def precision(self, model: str) -> Resampled:
        return entities.precision(self.compared(model), self.weights)

    def recall(self, model: str) -> Resampled:
        return entities.recall(self.compared(model), self.weights)

    def f1_with_teacher(self, model: str) -> Resampled:
        return entities.f1(
            entities.compare(self.predicted_entities["teacher"], self.predicted_entities[model]), self.weights
        )

    def compared(self, model: str) -> entities.Found:
        return entities.compare(self.true_entities, self.predicted_entities[model])


def answers_of(case: Case, predictors: Mapping[str, Predictor]) -> TagAnswers:
    """What each model answers to the words of the test documents.

    A student may read them in other pieces and windows; each word is answered once, in the order of the documents.
    """
    logits, encoded = outputs_of(case, predictors)
    rows = list(case.test)
    weights = quality.bootstrap_weights(len(rows), seed=case.recipe.seed)
    temperatures = temperatures_of(case, predictors, lambda outputs, rows: (outputs, np.concatenate(rows.labels)))
    return TagAnswers(logits, rows, encoded, case.class_names, weights, temperatures)


def kept(case: Case, answers: TagAnswers, model: str) -> ModelRows:
    """What is kept of a model's answers, document by document: it is right where all its words are."""
    words, hits = (answers.in_documents(each) for each in (np.ones(len(answers.truth)), answers.right(model)))
    found = answers.compared(model)
    numbers = {"words": words, "right_words": hits, "hits": found.right, "given": found.predicted, "true": found.there}
    return ModelRows(_told(answers, answers.predicted_entities[model]), (hits == words) & (words > 0), numbers)


def truth(case: Case, answers: TagAnswers) -> list[str]:
    """The entities that are in each document."""
    return _told(answers, answers.true_entities)


def _told(answers: TagAnswers, documents: Sequence[Sequence[Entity]]) -> list[str]:
    """The entities of each document in words."""
    return [_in_words(row, found) for row, found in zip(answers.rows, documents, strict=True)]


def _in_words(row: TaggedRow, found: Sequence[Entity]) -> str:
    return "; ".join(f"{kind}: {' '.join(row.tokens[start:end])}" for kind, start, end in found) or "nothing"


def judged(case: Case, answers: TagAnswers, measured: Measured) -> Judged:
    truth = answers.true_entities
    return Judged(
        answers=answers,
        queries=documents_of(case),
        references=references.of_tags(case, truth, measured["entity_f1"]["teacher"], answers.weights),
        classes=class_rows(*_kinds(answers)),
        disagreements=_disagreements(case, answers),
        more={
            "test_words": len(answers.truth),
            "calibration": calibration_records(answers),
            **_by_document(case, answers),
        },
    )


def _by_document(case: Case, answers: TagAnswers) -> dict[str, Any]:
    """Slices of documents, by the share of their words that is right, and the documents that were lost: all words right
    by the teacher, and not by the student. Of each the word is shown of whose wrong tag the student is surest."""
    counts = answers.in_documents(np.ones(len(answers.truth)))
    hits = {model: answers.in_documents(answers.right(model)) for model in answers.models}
    lengths = [len(row.tokens) for row in answers.rows]
    slices = slices_of(case, RowScores(hits, counts, answers.weights, lengths, "words"))
    sure = {model: answers.confidence(model)[0] for model in ("teacher", "student")}
    of_wrong = np.where(answers.right("student"), 0.0, sure["student"])
    surety = np.zeros(len(answers.rows))
    np.maximum.at(surety, answers.document_of, of_wrong)

    def shown(row: int) -> ShownRow:
        place = int(np.where(answers.document_of == row, of_wrong, -1.0).argmax())
        word, tokens = int(answers.word_of[place]), answers.rows[row].tokens
        tags = {model: int(logits[place].argmax()) for model, logits in answers.logits.items()}
        return ShownRow(
            text=" ".join(tokens[max(0, word - SHOWN_WORDS) : word + 1 + SHOWN_WORDS]),
            truth=f"{tokens[word]}: {answers.labels[answers.truth[place]]}",
            answers={model: f"{tokens[word]}: {answers.labels[tag]}" for model, tag in tags.items()},
            confidences={model: float(each[place]) for model, each in sure.items()},
        )

    right = {model: (each == counts) & (counts > 0) for model, each in hits.items()}
    return {
        "slices": [each.record for each in slices],
        "regressions": regressions_of(case, right, slices, shown, surety),
    }


def documents_of(case: Case) -> Queries:
    """The words of test documents, by which speed is measured."""
    task = case.recipe.task
    assert isinstance(task, TokenClassification)
    documents = tuple(row.tokens for row in case.timed_rows)
    return Queries("documents", documents, {"max_length": task.max_length, "overlap": task.overlap})


def _kinds(answers: TagAnswers) -> tuple[list[str], list[int], dict[str, list[float | None]]]:
    """The kinds of entities, how many there are, and of each model the share of them that it finds."""
    truth, kinds = answers.true_entities, entities.kinds_of(answers.labels)

    def recall(model: str, kind: str) -> float | None:
        counted = entities.compare(truth, answers.predicted_entities[model], kind)
        return float(counted.right.sum() / counted.there.sum()) if counted.there.any() else None

    counts = [sum(entity[0] == kind for each in truth for entity in each) for kind in kinds]
    return kinds, counts, {model: [recall(model, kind) for kind in kinds] for model in answers.models}


def _disagreements(case: Case, answers: TagAnswers) -> list[Disagreement]:
    """A sample, by stable hash, of the documents on which student and teacher differ: the first span of each."""
    rows, predicted = answers.rows, answers.predicted_entities
    differ = [
        (row, min(differing, key=lambda entity: entity[1:]))
        for row in range(len(rows))
        if (differing := set(predicted["student"][row]) ^ set(predicted["teacher"][row]))
    ]
    chosen = stable_order(differ, lambda each: rows[each[0]].id, salt="disagreements")

    def shown(documents: Sequence[Sequence[Entity]], row: int, start: int, end: int) -> str:
        """The entities of a document within a span."""
        return _in_words(rows[row], [each for each in documents[row] if each[1] < end and each[2] > start])

    return [
        disagreement(
            case,
            row,
            text=" ".join(rows[row].tokens[max(0, start - SHOWN_WORDS) : end + SHOWN_WORDS]),
            truth=shown(answers.true_entities, row, start, end),
            answers={model: shown(documents, row, start, end) for model, documents in predicted.items()},
        )
        for row, (_, start, end) in chosen[: case.recipe.evaluate.sample_disagreements]
    ]
