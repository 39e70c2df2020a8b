"""Quality on the test rows, with intervals by the paired bootstrap and McNemar's exact test.

A bootstrap resample is a vector of weights over the rows (how often each was drawn). All quantities of one
evaluation use the same resamples, so differences between models are paired: rows, not models, are drawn.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt8

Logits = Float[np.ndarray, "rows classes"]
Classes = Int[np.ndarray, "rows"]
Weights = Float[np.ndarray, "resamples rows"] | UInt8[np.ndarray, "resamples rows"]
"""Of 8 bits as they are drawn, so that 100,000 rows take 200 MB; `drawn_sums` multiplies them."""
Values = Float[np.ndarray, "rows"]
Decisions = Bool[np.ndarray, "rows labels"]
"""Which labels a row has, where it can have several."""

RESAMPLES = 2000
"""Enough for the ends of a 95 % interval: about 50 resamples lie beyond each (Efron and Tibshirani 1993, ch. 13)."""


CHUNK_NUMBERS = 2**22
"""Weights that are drawn or multiplied at a time: 32 MB of them in 64 bits."""


def bootstrap_weights(rows: int, *, seed: int, resamples: int = RESAMPLES) -> UInt8[np.ndarray, "resamples rows"]:
    """How often each row was drawn in each resample; the first is the sample itself."""
    generator = np.random.default_rng(seed)
    weights = np.ones((1 + resamples, rows), dtype=np.uint8)
    for part in _chunks(weights[1:]):
        drawn = generator.multinomial(rows, np.full(rows, 1 / rows), size=len(part))
        # Of one row in 256 draws of any number of rows the chance is below 1e-500.
        assert drawn.max() <= np.iinfo(np.uint8).max
        part[:] = drawn
    return weights


def drawn_sums(
    weights: Weights, values: Shaped[np.ndarray, "rows *columns"]
) -> Float[np.ndarray, "resamples *columns"]:
    """The sum of the values of the drawn rows, in each resample."""
    values = values.astype(np.float64, copy=False)
    return np.concatenate([part.astype(np.float64) @ values for part in _chunks(weights)])


def _chunks(weights: Weights) -> Iterator[Weights]:
    step = max(1, CHUNK_NUMBERS // max(1, weights.shape[1]))
    return (weights[start : start + step] for start in range(0, len(weights), step))


def interval(values: Float[np.ndarray, "resamples"]) -> tuple[float, float, float]:
    """The value on the sample itself (the first), and the 2.5 % and 97.5 % quantiles over the resamples."""
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return float(values[0]), float(low), float(high)


def one_sided_bounds(values: Float[np.ndarray, "resamples"]) -> tuple[float, float]:
    """What 95 % of the resamples are above, and what 95 % of them are below."""
    low, high = np.quantile(values[1:], [0.05, 0.95])
    return float(low), float(high)


def accuracies(correct: Bool[np.ndarray, "rows"], weights: Weights) -> Float[np.ndarray, "resamples"]:
    """Accuracy in each resample."""
    return np.asarray(drawn_sums(weights, correct) / weights.sum(axis=1))


def pooled_shares(
    hits: Float[np.ndarray, "rows"], counts: Float[np.ndarray, "rows"], weights: Weights
) -> Float[np.ndarray, "resamples"]:
    """Share of hits in each resample, where a row has several trials that are drawn together."""
    return np.asarray(drawn_sums(weights, hits) / np.maximum(drawn_sums(weights, counts), 1e-12))


def macro_f1s(truth: Classes, predicted: Classes, classes: int, weights: Weights) -> Float[np.ndarray, "resamples"]:
    """Macro-averaged F1 in each resample, over the classes that occur in its truth."""
    one_hot = np.eye(classes)
    hits = drawn_sums(weights, one_hot[truth] * (truth == predicted)[:, None])
    support = drawn_sums(weights, one_hot[truth])
    predicted = drawn_sums(weights, one_hot[predicted])
    f1 = 2 * hits / np.maximum(support + predicted, 1e-12)
    present = support > 0
    return np.asarray((f1 * present).sum(axis=1) / present.sum(axis=1))


def micro_f1s(truth: Decisions, predicted: Decisions, weights: Weights) -> Float[np.ndarray, "resamples"]:
    """F1 over all decisions together in each resample; 0 where nothing is true and nothing predicted."""
    hits = drawn_sums(weights, (truth & predicted).sum(axis=1))
    return np.asarray(2 * hits / np.maximum(drawn_sums(weights, truth.sum(axis=1) + predicted.sum(axis=1)), 1e-12))


def label_f1s(truth: Decisions, predicted: Decisions, weights: Weights) -> Float[np.ndarray, "resamples"]:
    """The mean of the labels' F1 in each resample, over the labels that occur in its truth."""
    hits = drawn_sums(weights, truth & predicted)
    support = drawn_sums(weights, truth)
    f1 = 2 * hits / np.maximum(support + drawn_sums(weights, predicted), 1e-12)
    present = support > 0
    return np.asarray((f1 * present).sum(axis=1) / np.maximum(present.sum(axis=1), 1))


def label_recalls(truth: Decisions, predicted: Decisions) -> list[float | None]:
    """Share of each label's rows on which it was predicted; None for a label without rows."""
    return [float(each[true].mean()) if true.any() else None for true, each in zip(truth.T, predicted.T, strict=True)]


def r2s(truth: Values, predicted: Values, weights: Weights) -> Float[np.ndarray, "resamples"]:
    """The share of the variance that is explained, 1 - sum (y - s)^2 / sum (y - mean y)^2, in each resample.

    0 for one that always predicts the mean of the rows, and negative for one who is further away.
    """
    total = weights.sum(axis=1)
    mean = drawn_sums(weights, truth) / total
    # Around a value near the mean, so that the difference of two large sums keeps its digits.
    centred = truth - truth.mean()
    variance = drawn_sums(weights, centred**2) / total - (mean - truth.mean()) ** 2
    explained = 1 - (drawn_sums(weights, (truth - predicted) ** 2) / total) / np.maximum(variance, 1e-300)
    # A resample of equal values has nothing to explain. It says nothing of the model, so it counts as the sample does.
    return np.asarray(np.where(variance > 1e-9 * variance[0], explained, explained[0]))


def rmses(truth: Values, predicted: Values, weights: Weights) -> Float[np.ndarray, "resamples"]:
    """The root of the mean squared error in each resample."""
    return np.asarray(np.sqrt(drawn_sums(weights, (truth - predicted) ** 2) / weights.sum(axis=1)))


def spearmans(truth: Values, predicted: Values, weights: Weights) -> Float[np.ndarray, "resamples"]:
    """The correlation of the ranks in each resample, equal values at the mean of their ranks; 0 where all are equal."""
    true, guessed = (np.unique(values, return_inverse=True)[1] for values in (truth, predicted))
    return np.array(
        [
            _correlation(_ranks(true, drawn), _ranks(guessed, drawn), drawn)
            for drawn in (each.astype(np.float64) for each in weights)
        ]
    )


def _ranks(groups: Int[np.ndarray, "rows"], drawn: Float[np.ndarray, "rows"]) -> Float[np.ndarray, "rows"]:
    """The rank of each row among those that were drawn, where rows of equal values are a group."""
    sizes = np.bincount(groups, weights=drawn)
    return np.asarray((np.cumsum(sizes) - sizes / 2)[groups])


def _correlation(a: Float[np.ndarray, "rows"], b: Float[np.ndarray, "rows"], drawn: Float[np.ndarray, "rows"]) -> float:
    a, b = (each - np.average(each, weights=drawn) for each in (a, b))
    spread = np.sqrt((drawn @ a**2) * (drawn @ b**2))
    return float(drawn @ (a * b) / spread) if spread > 0 else 0.0


def mcnemar(first: Bool[np.ndarray, "rows"], second: Bool[np.ndarray, "rows"]) -> tuple[int, int, float]:
    """Rows that only the first has right, that only the second has right, and the exact two-sided p-value.

    Source: McNemar 1947; exact binomial form, since the counts can be small.
    """
    only_first = int((first & ~second).sum())
    only_second = int((second & ~first).sum())
    if only_first + only_second == 0:
        return 0, 0, 1.0
    from scipy.stats import binomtest  # half a second, which a command that only reads a recipe need not wait

    p = binomtest(only_first, only_first + only_second).pvalue
    return only_first, only_second, float(p)


def log_softmax(logits: Logits) -> Logits:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def cross_entropy(logits: Logits, truth: Classes) -> float:
    """Mean negative log-likelihood of the true class, in nats."""
    return float(-log_softmax(logits)[np.arange(len(truth)), truth].mean())


def kl(teacher: Logits, student: Logits) -> float:
    """Mean KL(teacher || student) at T = 1, in nats."""
    log_p, log_q = log_softmax(teacher), log_softmax(student)
    return float((np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean())


def confidences(logits: Logits, truth: Classes) -> tuple[Float[np.ndarray, "rows"], Bool[np.ndarray, "rows"]]:
    """The probability of the likeliest class of each row, and whether it is the true one."""
    probabilities = np.exp(log_softmax(logits))
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == truth


BINS = 15
"""Of equal width, into which decisions are put by their confidence; as many as Guo et al. have."""


def bin_of(confidence: Float[np.ndarray, "rows"]) -> Int[np.ndarray, "rows"]:
    """The bin of each confidence; right-closed, so that one of exactly 1 falls into the last."""
    return np.asarray(np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1))


def calibration_error(confidence: Float[np.ndarray, "rows"], correct: Bool[np.ndarray, "rows"]) -> float:
    """Mean gap between confidence and accuracy over equal-width bins (Guo et al. 2017, arXiv:1706.04599)."""
    place = bin_of(confidence)
    gap = 0.0
    for number in range(BINS):
        inside = place == number
        if inside.any():
            gap += inside.mean() * abs(confidence[inside].mean() - correct[inside].mean())
    return float(gap)


def retained(student: Float[np.ndarray, "scores"], teacher: Float[np.ndarray, "scores"]) -> Float[np.ndarray, "scores"]:
    """Student / teacher; 0 where the teacher has nothing to keep, or, as an R² can be, less than nothing."""
    return np.asarray(np.divide(student, teacher, out=np.zeros_like(student), where=teacher > 0))


def per_class_accuracy(truth: Classes, predicted: Classes, classes: int) -> list[float | None]:
    """Share of each class's rows that were recognised (recall); None for a class without rows."""
    result: list[float | None] = []
    for number in range(classes):
        rows = truth == number
        result.append(float((predicted[rows] == number).mean()) if rows.any() else None)
    return result
