"""From the answers of models to other texts than the test rows to what the record says of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from potstill.evaluation.answers import estimate
from potstill.evaluation.formulas import Resampled
from potstill.evaluation.robustness.readings import Numbers, OneClass, OutputReading, Truth
from potstill.evaluation.tags import TagAnswers
from potstill.measure import quality
from potstill.measure.out_of_domain import InsideWeights, OutsideWeights, aurocs, false_positive_rates
from potstill.measure.quality import Weights
from potstill.records import (
    Detection,
    ModelRobustness,
    OutOfDomain,
    OutOfDomainScores,
    PerturbedScores,
    Robustness,
    ScoreHistogram,
    SeverityScores,
)
from potstill.runtimes.predictor import Outputs

CONFIDENT = 0.9
"""The least probability of an answer that who reads it would trust."""
BINS = 20


def robustness(
    reading: OutputReading,
    truth: Truth,
    outputs: Mapping[str, Sequence[Outputs]],
    ways: Sequence[tuple[str, int]],
    weights: Weights,
) -> Robustness:
    """Of each model the `outputs` for the rows as they are and then changed in each of the ways; `weights` are
    resamples of the rows."""
    ones = np.ones(len(truth))

    def share(of_rows: Numbers) -> Numbers:
        return quality.pooled_shares(of_rows, ones, weights)

    right = {
        name: [reading.right(each, truth).astype(np.float64) for each in blocks] for name, blocks in outputs.items()
    }
    clean = {name: share(blocks[0]) for name, blocks in right.items()}
    robust = {name: share(np.mean(blocks[1:], axis=0)) for name, blocks in right.items()}
    changed = {name: [share(each) for each in blocks[1:]] for name, blocks in right.items()}
    same = {
        name: [
            share(reading.same(each, others)) for each, others in zip(blocks[1:], outputs["teacher"][1:], strict=True)
        ]
        for name, blocks in outputs.items()
    }
    return Robustness(rows=len(truth), models=_of_models(Scores(clean, robust, changed, same), ways))


def robustness_of_tags(
    answers: Sequence[TagAnswers], ways: Sequence[tuple[str, int]], models: Sequence[str]
) -> Robustness:
    """The same by entity F1, of the answers to the documents as they are and then changed in each of the ways."""
    changed = {name: [each.f1(name) for each in answers[1:]] for name in models}
    clean = {name: answers[0].f1(name) for name in models}
    robust = {name: np.asarray(np.mean(each, axis=0)) for name, each in changed.items()}
    same = {name: [_same_tags(each, name) for each in answers[1:]] for name in models}
    return Robustness(rows=len(answers[0].rows), models=_of_models(Scores(clean, robust, changed, same), ways))


def _same_tags(answers: TagAnswers, name: str) -> Resampled:
    """The share of words that a model tags as the teacher does."""
    own, teachers = (answers.logits[each].argmax(axis=1) for each in (name, "teacher"))
    return answers.share(own == teachers)


@dataclass(frozen=True)
class Scores:
    """Of each model over resamples of the rows."""

    clean: Mapping[str, Resampled]
    robust: Mapping[str, Resampled]
    """The mean over all changes."""
    changed: Mapping[str, Sequence[Resampled]]
    """By change."""
    same: Mapping[str, Sequence[Resampled]]
    """Agreement with the teacher by change."""


def _of_models(scores: Scores, ways: Sequence[tuple[str, int]]) -> dict[str, ModelRobustness]:
    clean, robust = scores.clean, scores.robust
    kept = {name: quality.retained(robust[name], clean[name]) for name in robust}
    models = {}
    for name, shares in scores.changed.items():
        same, of_teacher = scores.same[name], name == "teacher"
        models[name] = ModelRobustness(
            clean_accuracy=estimate(clean[name]),
            robust_accuracy=estimate(robust[name]),
            kept=estimate(kept[name]),
            kept_over_teacher_points=None if of_teacher else estimate(100 * (kept[name] - kept["teacher"])),
            robust_agreement=None if of_teacher else estimate(np.asarray(np.mean(same, axis=0))),
            by_severity=[
                SeverityScores(
                    severity=severity,
                    accuracy=estimate(accuracy),
                    kept=estimate(quality.retained(accuracy, clean[name])),
                )
                for severity in sorted({severity for _, severity in ways})
                for accuracy in [
                    np.mean([each for each, way in zip(shares, ways, strict=True) if way[1] == severity], axis=0)
                ]
            ],
            perturbed=[
                PerturbedScores(
                    perturbation=perturbation,
                    severity=severity,
                    accuracy=estimate(accuracy),
                    kept=estimate(quality.retained(accuracy, clean[name])),
                    agreement=None if of_teacher else estimate(alike),
                )
                for (perturbation, severity), accuracy, alike in zip(ways, shares, same, strict=True)
            ],
        )
    return models


def out_of_domain(
    reading: OutputReading,
    source: str,
    inside: Mapping[str, Float[np.ndarray, "inside outputs"]],
    outside: Mapping[str, Float[np.ndarray, "outside outputs"]],
    weights_inside: InsideWeights,
    weights_outside: OutsideWeights,
) -> OutOfDomain:
    """Of each model how it tells the test rows from those `outside`, over resamples of both."""

    def detection(within: Numbers, without: Numbers) -> Detection:
        drawn = within, without, weights_inside, weights_outside
        return Detection(
            auroc=estimate(aurocs(*drawn)),
            fpr95=estimate(false_positive_rates(*drawn)),
            histogram=_histogram(within, without),
        )

    models = {
        name: OutOfDomainScores(
            max_probability=detection(reading.max_probability(inside[name]), reading.max_probability(others)),
            energy=detection(reading.energy(inside[name]), reading.energy(others)),
            confident=estimate(quality.accuracies(reading.max_probability(others) >= CONFIDENT, weights_outside)),
        )
        for name, others in outside.items()
    }
    return OutOfDomain(source=source, rows=weights_outside.shape[1], test_rows=weights_inside.shape[1], models=models)


def tags_out_of_domain(source: str, inside: TagAnswers, outside: TagAnswers, models: Sequence[str]) -> OutOfDomain:
    """The same of documents, by what is the mean over their words."""
    reading = OneClass()

    def detection(score: Callable[[Outputs], Numbers], name: str) -> Detection:
        within, without = (_by_document(each, score(each.logits[name])) for each in (inside, outside))
        drawn = within, without, inside.weights, outside.weights
        return Detection(
            auroc=estimate(aurocs(*drawn)),
            fpr95=estimate(false_positive_rates(*drawn)),
            histogram=_histogram(within, without),
        )

    found = {
        name: OutOfDomainScores(
            max_probability=detection(reading.max_probability, name),
            energy=detection(reading.energy, name),
            confident=estimate(outside.share(reading.max_probability(outside.logits[name]) >= CONFIDENT)),
            with_entities=estimate(
                quality.accuracies(np.array([bool(each) for each in outside.predicted_entities[name]]), outside.weights)
            ),
        )
        for name in models
    }
    return OutOfDomain(source=source, rows=len(outside.rows), test_rows=len(inside.rows), models=found)


def _by_document(answers: TagAnswers, values: Numbers) -> Numbers:
    """The mean over the words of each document; 0 of one without any that is read."""
    counts = answers.in_documents(np.ones(len(values)))
    return np.asarray(answers.in_documents(values) / np.maximum(counts, 1))


def _histogram(within: Numbers, without: Numbers) -> ScoreHistogram:
    edges = np.histogram_bin_edges(np.concatenate([within, without]), BINS)
    counts = [np.histogram(each, edges)[0].tolist() for each in (within, without)]
    return ScoreHistogram(edges=edges.tolist(), in_domain=counts[0], out_of_domain=counts[1])
