"""Whether probabilities are as often right as they say, and the one temperature that brings them nearest to it."""

import numpy as np
from jaxtyping import Bool, Float

from potstill.measure.quality import BINS, Classes, Logits, bin_of, log_softmax
from potstill.records import ReliabilityBin

LEAST_TEMPERATURE, MOST_TEMPERATURE = 0.05, 20.0
"""Between which a temperature is looked for; those of trained networks lie near 1 (arXiv:1706.04599, figure 4)."""


def brier_score(logits: Logits, truth: Classes) -> float:
    """The mean of the squared differences from the true distribution, summed over the classes: from 0 to 2.

    Source: Brier 1950, in its form for several classes; of two classes it is twice the square for one of them.
    """
    differences = np.exp(log_softmax(logits))
    differences[np.arange(len(truth)), truth] -= 1
    return float((differences**2).sum(axis=1).mean())


def fitted_temperature(logits: Logits, truth: Classes) -> float:
    """The temperature with the least cross-entropy of softmax(logits / T) (Guo et al. 2017, arXiv:1706.04599).

    Cross-entropy is convex in 1 / T, so it has one minimum. Where that lies beyond a bound, or every temperature
    serves alike, it is a bound.
    """
    from scipy.optimize import minimize_scalar  # what mcnemar says of its import holds for these too
    from scipy.special import logsumexp

    behind = logits.astype(np.float64)
    behind -= behind[np.arange(len(truth)), truth][:, None]

    def cross_entropy(log_temperature: float) -> float:
        return float(logsumexp(behind * np.exp(-log_temperature), axis=1).mean())

    bounds = float(np.log(LEAST_TEMPERATURE)), float(np.log(MOST_TEMPERATURE))
    found = minimize_scalar(cross_entropy, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    lowest, highest, between = map(cross_entropy, (*bounds, float(found.x)))
    if between < min(lowest, highest):
        return float(np.exp(found.x))
    return LEAST_TEMPERATURE if lowest <= highest else MOST_TEMPERATURE


def reliability(confidence: Float[np.ndarray, "rows"], correct: Bool[np.ndarray, "rows"]) -> list[ReliabilityBin]:
    """The decisions in bins of equal width, those of the calibration error, without the empty ones."""
    from scipy.stats import binomtest

    place, found = bin_of(confidence), []
    for number in np.unique(place).tolist():
        inside = place == number
        right, count = int(correct[inside].sum()), int(inside.sum())
        interval = binomtest(right, count).proportion_ci(0.95, method="wilson")
        found.append(
            ReliabilityBin(
                above=number / BINS,
                up_to=(number + 1) / BINS,
                decisions=count,
                confidence=float(confidence[inside].mean()),
                accuracy=right / count,
                low=float(interval.low),
                high=float(interval.high),
            )
        )
    return found
