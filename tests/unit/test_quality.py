"""Quality on the test rows, against scikit-learn, torch and sums by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, recall_score

from potstill.measure import quality
from potstill.measure.floor import tfidf_predictions

seeds = st.integers(0, 2**32 - 1)


def drawn(seed: int, *, rows: int = 60, classes: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Truth and logits; the last class is rare, and may be missing from the truth or from what is said."""
    generator = np.random.default_rng(seed)
    truth = generator.choice(classes, rows, p=[0.3, 0.25, 0.2, 0.15, 0.09, 0.01])
    logits = generator.normal(size=(rows, classes)).astype(np.float32)
    logits[np.arange(rows), truth] += 1.5
    return truth, logits


@settings(deadline=None, max_examples=50)
@given(seed=seeds)
def test_macro_f1_is_that_of_scikit_learn_over_the_classes_of_the_truth(seed: int) -> None:
    truth, logits = drawn(seed)
    said = logits.argmax(axis=1)
    found = quality.macro_f1s(truth, said, 6, np.ones((1, len(truth))))[0]
    assert found == pytest.approx(f1_score(truth, said, labels=np.unique(truth), average="macro", zero_division=0))


@settings(deadline=None, max_examples=20)
@given(seed=seeds)
def test_a_resample_is_the_rows_as_often_as_they_were_drawn(seed: int) -> None:
    truth, logits = drawn(seed)
    said = logits.argmax(axis=1)
    weights = quality.bootstrap_weights(len(truth), seed=seed, resamples=5)
    assert (weights[0] == 1).all() and (weights.sum(axis=1) == len(truth)).all()
    accuracies = quality.accuracies(said == truth, weights)
    macro_f1s = quality.macro_f1s(truth, said, 6, weights)
    for number, row in enumerate(weights.astype(int)):
        again = np.repeat(np.arange(len(truth)), row)
        assert accuracies[number] == pytest.approx((said == truth)[again].mean())
        present = np.unique(truth[again])
        expected = f1_score(truth[again], said[again], labels=present, average="macro", zero_division=0)
        assert macro_f1s[number] == pytest.approx(expected)


def test_the_interval_of_an_accuracy_is_that_of_a_binomial_share() -> None:
    right = np.arange(2000) < 1600
    value, low, high = quality.interval(quality.accuracies(right, quality.bootstrap_weights(2000, seed=1)))
    half = 1.96 * math.sqrt(0.8 * 0.2 / 2000)
    assert value == 0.8
    assert (low, high) == (pytest.approx(0.8 - half, abs=2e-3), pytest.approx(0.8 + half, abs=2e-3))


def test_models_are_compared_on_the_same_resamples() -> None:
    weights = quality.bootstrap_weights(500, seed=1)
    right = np.random.default_rng(0).random(500) < 0.7
    better = right.copy()
    better[np.nonzero(~right)[0][:10]] = True
    value, low, high = quality.interval(quality.accuracies(better, weights) - quality.accuracies(right, weights))
    # Unpaired, the interval would be about 0.11 wide.
    assert value == pytest.approx(0.02) and 0 < low < high and high - low < 0.03


@settings(deadline=None, max_examples=50)
@given(seed=seeds)
def test_mcnemar_counts_the_tails_of_the_binomial(seed: int) -> None:
    generator = np.random.default_rng(seed)
    first, second = generator.random(40) < 0.7, generator.random(40) < 0.5
    only_first, only_second, p = quality.mcnemar(first, second)
    n = only_first + only_second
    assert only_first == sum(a and not b for a, b in zip(first, second, strict=True))
    assert only_second == sum(b and not a for a, b in zip(first, second, strict=True))
    at_least_as_far = min(only_first, only_second)
    both_tails = 2 * sum(math.comb(n, k) for k in range(at_least_as_far + 1)) / 2**n
    assert p == pytest.approx(min(1.0, both_tails))


def test_mcnemar_of_equal_models_says_nothing() -> None:
    right = np.array([True, False, True])
    assert quality.mcnemar(right, right) == (0, 0, 1.0)


@settings(deadline=None, max_examples=30)
@given(seed=seeds, scale=st.sampled_from([1.0, 30.0, 3000.0]))
def test_cross_entropy_and_kl_are_those_of_torch(seed: int, scale: float) -> None:
    truth, logits = drawn(seed)
    teacher, student = scale * logits, drawn(seed ^ 1)[1]
    as_torch = torch.from_numpy(teacher).double()
    expected = torch.nn.functional.cross_entropy(as_torch, torch.from_numpy(truth))
    assert quality.cross_entropy(teacher, truth) == pytest.approx(float(expected), abs=1e-12)
    log_q = torch.from_numpy(student).double().log_softmax(-1)
    log_p = as_torch.log_softmax(-1)
    expected = torch.nn.functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    assert quality.kl(teacher, student) == pytest.approx(float(expected), abs=1e-9)
    assert quality.kl(teacher, teacher) == 0.0


def test_calibration_error_by_hand() -> None:
    def logit(confidence: float) -> list[float]:
        return [math.log(confidence), math.log(1 - confidence)]

    # Two bins: 0.9 said with 3 of 4 right, 0.6 said with 1 of 2 right.
    logits = np.array([logit(0.9)] * 4 + [logit(0.6)] * 2)
    truth = np.array([0, 0, 0, 1, 0, 1])
    expected = 4 / 6 * abs(0.9 - 3 / 4) + 2 / 6 * abs(0.6 - 1 / 2)
    assert quality.expected_calibration_error(logits, truth) == pytest.approx(expected)
    sure = np.array([[100.0, 0.0]] * 3)
    assert quality.expected_calibration_error(sure, np.zeros(3, dtype=int)) == pytest.approx(0.0)


@settings(deadline=None, max_examples=30)
@given(seed=seeds)
def test_per_class_accuracy_is_recall_and_none_without_rows(seed: int) -> None:
    truth, logits = drawn(seed)
    said = logits.argmax(axis=1)
    recalls = recall_score(truth, said, labels=range(6), average=None, zero_division=0)
    for number, found in enumerate(quality.per_class_accuracy(truth, said, 6)):
        assert found == (pytest.approx(recalls[number]) if (truth == number).any() else None)


def test_the_floor_learns_which_word_tells_the_class() -> None:
    words = ["iron", "wolf", "pear"]
    labels = [number % 3 for number in range(60)]
    texts = [f"a {words[label]} and word{number}" for number, label in enumerate(labels)]
    assert tfidf_predictions(texts, labels, ["the pear there", "my iron", "no wolf"], seed=0) == [2, 0, 1]
