"""From the answers of models to other texts than the test rows to what the record says of them."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from potstill.evaluation.answers import estimate
from potstill.evaluation.robustness.readings import Numbers, OutputReading, Truth
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
    kept = {name: quality.retained(robust[name], clean[name]) for name in outputs}
    models = {}
    for name, blocks in outputs.items():
        same = [reading.same(each, others) for each, others in zip(blocks, outputs["teacher"], strict=True)]
        of_teacher = name == "teacher"
        shares = [share(each) for each in right[name][1:]]
        models[name] = ModelRobustness(
            clean_accuracy=estimate(clean[name]),
            robust_accuracy=estimate(robust[name]),
            kept=estimate(kept[name]),
            kept_over_teacher_points=None if of_teacher else estimate(100 * (kept[name] - kept["teacher"])),
            robust_agreement=None if of_teacher else estimate(share(np.mean(same[1:], axis=0))),
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
                    agreement=None if of_teacher else estimate(share(alike)),
                )
                for (perturbation, severity), accuracy, alike in zip(ways, shares, same[1:], strict=True)
            ],
        )
    return Robustness(rows=len(truth), models=models)


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


def _histogram(within: Numbers, without: Numbers) -> ScoreHistogram:
    edges = np.histogram_bin_edges(np.concatenate([within, without]), BINS)
    counts = [np.histogram(each, edges)[0].tolist() for each in (within, without)]
    return ScoreHistogram(edges=edges.tolist(), in_domain=counts[0], out_of_domain=counts[1])
