"""Token measures against plain arithmetic over whole logits."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from potstill.measure.language import TokensOfRows, joined, measure_tokens
from potstill.measure.quality import bootstrap_weights, pooled_shares
from potstill.runtimes.greedy import greedy
from potstill.targets import Head, HiddenTargets, MixedTargets


def states(seed: int, count: int = 150) -> HiddenTargets:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    return HiddenTargets(hidden, Head(torch.randn(30, 6, generator=generator, dtype=torch.float64)))


def test_measures_are_those_of_whole_logits_over_more_than_a_chunk() -> None:
    teacher, student = states(1), states(2)
    labels = torch.randint(0, 30, (150,), generator=torch.Generator().manual_seed(3))
    found = measure_tokens({"teacher": teacher, "student": student}, teacher, labels, chunk_rows=4)
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


def test_a_student_of_several_teachers_is_compared_with_their_mixture() -> None:
    members, student = (states(1), states(2)), states(3)
    teacher = MixedTargets(members, torch.tensor([0.25, 0.75], dtype=torch.float64).expand(150, 2))
    labels = torch.zeros(150, dtype=torch.int64)
    found = measure_tokens({"student": student}, teacher, labels, chunk_rows=64)["student"]
    one, other, q = (torch.softmax(each.hidden @ each.head.weight.T, dim=1) for each in (*members, student))
    p = 0.25 * one + 0.75 * other
    np.testing.assert_allclose(found.kl, (p * (p / q).log()).sum(dim=1).numpy())


def test_several_models_write_what_is_likeliest_for_all() -> None:
    models = []
    for seed in (5, 6):
        torch.manual_seed(seed)
        sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        models.append(LlamaForCausalLM(LlamaConfig(vocab_size=12, **sizes)).eval())
    text = [3, 1, 4]
    with torch.no_grad():
        for _ in range(6):
            shares = [model(input_ids=torch.tensor([text])).logits[0, -1].softmax(dim=-1) for model in models]
            text.append(int((shares[0] + shares[1]).argmax()))
    assert greedy(models, [3, 1, 4], 6)[0] == text[3:]
    alone = [greedy([model], [3, 1, 4], 6)[0] for model in models]
    assert text[3:] not in alone, "the two must be seen to be asked together"
    second = greedy(models, [3, 1, 4], 6, together=lambda logits: logits[1])[0]
    assert second == alone[1]
    assert greedy(models[:1], [3, 1, 4], 6, stop={alone[0][2]})[0] == alone[0][: alone[0].index(alone[0][2]) + 1]


def test_shares_of_rows_with_several_trials_draw_whole_rows() -> None:
    hits, counts = np.array([3.0, 0.0, 5.0]), np.array([4.0, 2.0, 5.0])
    weights = bootstrap_weights(3, seed=0, resamples=50)
    shares = pooled_shares(hits, counts, weights)
    assert shares[0] == 8 / 11
    for share, drawn in zip(shares[1:], weights[1:], strict=True):
        assert share == (drawn * hits).sum() / (drawn * counts).sum()


def test_tokens_are_drawn_by_the_row_that_they_are_of() -> None:
    values, row_of = np.array([1.0, 0.0, 1.0, 1.0, 0.5]), np.array([0, 0, 1, 1, 1])
    weights = bootstrap_weights(2, seed=0, resamples=50)
    means = TokensOfRows(row_of, row_of, weights).means(values)
    assert means[0] == pytest.approx(0.7)
    for mean, (first, second) in zip(means[1:], weights[1:], strict=True):
        assert mean == pytest.approx((first * 1.0 + second * 2.5) / (first * 2 + second * 3))
    # However many tokens it has, one row alone has nothing to be compared with.
    one = np.zeros(5, dtype=np.int64)
    alone = TokensOfRows(one, one, bootstrap_weights(1, seed=0, resamples=50)).means(values)
    assert (alone == alone[0]).all()
