"""Token measures against plain arithmetic over whole logits."""

import numpy as np
import torch

from potstill.measure.language import joined, measure_tokens
from potstill.measure.quality import bootstrap_weights, pooled_shares
from potstill.targets import Head, HiddenTargets


def states(seed: int, count: int = 150) -> HiddenTargets:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    return HiddenTargets(hidden, Head(torch.randn(30, 6, generator=generator, dtype=torch.float64)))


def test_measures_are_those_of_whole_logits_over_more_than_a_chunk() -> None:
    teacher, student = states(1), states(2)
    labels = torch.randint(0, 30, (150,), generator=torch.Generator().manual_seed(3))
    found = measure_tokens({"teacher": teacher, "student": student}, teacher, labels)
    p, q = (torch.softmax(each.hidden @ each.head.weight.T, dim=1) for each in (teacher, student))
    got = found["student"]
    np.testing.assert_allclose(got.loss, -q.gather(1, labels[:, None]).squeeze(1).log().numpy())
    np.testing.assert_allclose(got.kl, (p * (p / q).log()).sum(dim=1).numpy())
    np.testing.assert_array_equal(got.right, (q.argmax(dim=1) == labels).numpy())
    np.testing.assert_array_equal(got.agrees, (q.argmax(dim=1) == p.argmax(dim=1)).numpy())
    np.testing.assert_allclose(got.confidence, q.amax(dim=1).numpy())
    top = p.argmax(dim=1, keepdim=True)
    np.testing.assert_allclose(got.probability_difference, (q.gather(1, top) - p.gather(1, top)).squeeze(1).numpy())
    assert not found["teacher"].kl.any() and found["teacher"].agrees.all()
    both = joined([got, found["teacher"]])
    assert len(both.kl) == 300 and both.kl[150:].sum() == 0


def test_shares_of_rows_with_several_trials_draw_whole_rows() -> None:
    hits, counts = np.array([3.0, 0.0, 5.0]), np.array([4.0, 2.0, 5.0])
    weights = bootstrap_weights(3, seed=0, resamples=50)
    shares = pooled_shares(hits, counts, weights)
    assert shares[0] == 8 / 11
    for share, drawn in zip(shares[1:], weights[1:], strict=True):
        assert share == (drawn * hits).sum() / (drawn * counts).sum()
