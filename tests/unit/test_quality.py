"""Quality on the test rows, against scikit-learn, torch and sums by hand."""

import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import f1_score, r2_score, recall_score

from potstill.measure import quality
from potstill.measure.floor import tfidf_labels, tfidf_numbers, tfidf_predictions

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


@pytest.mark.parametrize("rows", [1, 7, 100, 1234])
def test_resamples_are_those_of_one_draw_whatever_is_drawn_at_a_time(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = np.random.default_rng(3).multinomial(rows, np.full(rows, 1 / rows), size=40)
    for numbers in (quality.CHUNK_NUMBERS, 1, 3 * rows):
        monkeypatch.setattr(quality, "CHUNK_NUMBERS", numbers)
        weights = quality.bootstrap_weights(rows, seed=3, resamples=40)
        assert (weights[0] == 1).all() and np.array_equal(weights[1:], at_once)
        for values in (np.arange(rows) % 3 == 0, np.arange(2 * rows).reshape(rows, 2)):
            # Whole numbers, so to the last bit.
            assert np.array_equal(quality.drawn_sums(weights, values), weights.astype(np.float64) @ values)


def test_resamples_of_many_rows_take_a_byte_each_and_little_more_while_they_are_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows, resamples = 20_000, 500
    monkeypatch.setattr(quality, "CHUNK_NUMBERS", 2**17)
    tracemalloc.start()
    weights = quality.bootstrap_weights(rows, seed=0, resamples=resamples)
    values = np.random.default_rng(0).normal(size=rows)
    quality.accuracies(values > 0, weights)
    quality.rmses(values, -values, weights)
    quality.macro_f1s((values > 0).astype(int), (values > 1).astype(int), 2, weights)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Weights of 64 bits alone would be eight times `rows * resamples`.
    assert weights.nbytes == rows * (1 + resamples) and peak < 1.5 * weights.nbytes


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
    assert quality.calibration_error(*quality.confidences(logits, truth)) == pytest.approx(expected)
    sure = np.array([[100.0, 0.0]] * 3)
    assert quality.calibration_error(*quality.confidences(sure, np.zeros(3, dtype=int))) == pytest.approx(0.0)


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


@settings(deadline=None, max_examples=20)
@given(seed=seeds)
def test_f1s_of_several_labels_are_those_of_scikit_learn_in_every_resample(seed: int) -> None:
    generator = np.random.default_rng(seed)
    truth = generator.random((40, 5)) < [0.4, 0.3, 0.2, 0.1, 0.02]
    said = truth ^ (generator.random((40, 5)) < 0.2)
    weights = quality.bootstrap_weights(40, seed=seed, resamples=4)
    micro, macro = quality.micro_f1s(truth, said, weights), quality.label_f1s(truth, said, weights)
    for number, row in enumerate(weights.astype(int)):
        again = np.repeat(np.arange(40), row)
        assert micro[number] == pytest.approx(f1_score(truth[again], said[again], average="micro", zero_division=0))
        present = np.flatnonzero(truth[again].any(axis=0))
        expected = f1_score(truth[again], said[again], labels=present, average="macro", zero_division=0)
        assert macro[number] == pytest.approx(expected)
    recalls = recall_score(truth, said, average=None, zero_division=0)
    for number, found in enumerate(quality.label_recalls(truth, said)):
        assert found == (pytest.approx(recalls[number]) if truth[:, number].any() else None)


def test_f1s_of_nothing_are_zero() -> None:
    nothing = np.zeros((3, 2), dtype=bool)
    assert quality.micro_f1s(nothing, nothing, np.ones((1, 3))).tolist() == [0.0]
    assert quality.label_f1s(nothing, nothing, np.ones((1, 3))).tolist() == [0.0]


@settings(deadline=None, max_examples=20)
@given(seed=seeds, offset=st.sampled_from([0.0, 1e6]))
def test_measures_of_numbers_are_those_of_scikit_learn_and_scipy_in_every_resample(seed: int, offset: float) -> None:
    generator = np.random.default_rng(seed)
    # Rounded, so that there are ties.
    truth = generator.normal(size=30).round(1) + offset
    said = truth + generator.normal(size=30).round(1)
    weights = quality.bootstrap_weights(30, seed=seed, resamples=4)
    r2, rmse, rank = (measure(truth, said, weights) for measure in (quality.r2s, quality.rmses, quality.spearmans))
    for number, row in enumerate(weights.astype(int)):
        again = np.repeat(np.arange(30), row)
        assert r2[number] == pytest.approx(r2_score(truth[again], said[again]), abs=1e-8)
        assert rmse[number] == pytest.approx(math.sqrt(((truth - said)[again] ** 2).mean()))
        assert rank[number] == pytest.approx(spearmanr(truth[again], said[again]).statistic)


def test_who_always_says_the_same_explains_nothing() -> None:
    truth, one = np.array([1.0, 2.0, 6.0]), np.ones((1, 3))
    assert quality.r2s(truth, np.full(3, 3.0), one)[0] == pytest.approx(0)
    assert quality.r2s(truth, np.full(3, 9.0), one)[0] < 0
    assert quality.spearmans(truth, np.full(3, 3.0), one)[0] == 0


def test_the_floor_learns_which_words_tell_labels_and_numbers() -> None:
    words = ["iron", "wolf", "pear"]
    generator = np.random.default_rng(0)
    labels = generator.random((90, 3)) < 0.5
    texts = [
        " ".join([f"filler{n % 7}", *(w for w, is_in in zip(words, row, strict=True) if is_in)])
        for n, row in enumerate(labels)
    ]
    # A fourth that no text has, and a fifth that all have.
    known = np.column_stack([labels, np.zeros(90, dtype=bool), np.ones(90, dtype=bool)])
    said = tfidf_labels(texts, known, ["a wolf and iron", "filler1 pear"], seed=0)
    assert said.tolist() == [[True, True, False, False, True], [False, False, True, False, True]]
    none, both = tfidf_numbers(texts, 100.0 + 10 * labels[:, :2].sum(axis=1), ["filler1 filler2 pear", "wolf iron"])
    assert none < 106 < 114 < both


def test_a_resample_of_equal_values_says_nothing_of_the_variance_explained() -> None:
    truth, said = np.zeros(100), np.zeros(100)
    truth[:2], said[:2] = 5.0, 4.9
    weights = quality.bootstrap_weights(100, seed=0, resamples=500)
    r2 = quality.r2s(truth, said, weights)
    assert (weights[:, :2].sum(axis=1) == 0).sum() > 20, "some resamples have neither of the two"
    assert r2[0] > 0.99 and r2.min() > 0.9


def test_one_sided_bounds_leave_five_per_cent_beyond() -> None:
    values = np.concatenate([[0.0], np.arange(1.0, 2001.0)])
    low, high = quality.one_sided_bounds(values)
    assert (values[1:] < low).mean() == pytest.approx(0.05, abs=1e-3)
    assert (values[1:] > high).mean() == pytest.approx(0.05, abs=1e-3)
