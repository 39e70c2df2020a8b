"""What differs between two models is measured on the same resamples, which a seed decides alone."""

import numpy as np

from potstill.evaluation.answers import comparison, measured_by
from potstill.evaluation.evaluate import points
from potstill.evaluation.single_label import SingleLabelAnswers
from potstill.measure.quality import bootstrap_weights


def test_resamples_depend_on_their_seed_alone() -> None:
    assert np.array_equal(bootstrap_weights(20, seed=3, resamples=9), bootstrap_weights(20, seed=3, resamples=9))
    assert not np.array_equal(bootstrap_weights(20, seed=3, resamples=9), bootstrap_weights(20, seed=4, resamples=9))


def test_two_models_that_say_the_same_differ_by_exactly_nothing() -> None:
    """Drawn for each model by itself, the interval of the difference would be as wide as that of the accuracy."""
    generator = np.random.default_rng(1)
    truth = generator.integers(0, 3, 60)
    teacher, baseline = (generator.normal(size=(len(truth), 3)).astype(np.float32) for _ in range(2))
    logits = {"teacher": teacher, "student": teacher.copy(), "baseline": baseline}
    answers = SingleLabelAnswers(logits, truth, 3, bootstrap_weights(60, seed=0))
    measured = measured_by(answers, "single_label")
    found = {
        against: comparison(answers, "student", against, points(measured, "student", against))
        for against in ("teacher", "baseline")
    }
    same, other = found["teacher"].accuracy_points, found["baseline"].accuracy_points
    assert same is not None and other is not None
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert other.high - other.low > 5
    macro = found["teacher"].macro_f1_points
    assert macro is not None and (macro.low, macro.high) == (0, 0)
