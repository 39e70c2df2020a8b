"""Labels of a teacher that gives the log-probabilities of its likeliest tokens, and nothing else."""

import math
from collections.abc import Callable

import pytest
import torch

from potstill.errors import LabelStoreError
from potstill.given_targets import EvenTail, GivenBuckets
from potstill.labels.row_encoders import given_encoder
from potstill.labels.top_k import TopK
from potstill.recipe import Recipe
from potstill.signals import Batch
from potstill.targets import TopKTargets, plain_log_sum_exp

VOCABULARY = 50


def given(positions: int = 7, k: int = 6, *, seed: int = 0) -> tuple[GivenBuckets, torch.Tensor]:
    """The likeliest tokens of some distributions, and these as a whole."""
    torch.manual_seed(seed)
    log_probs = torch.log_softmax(3 * torch.randn(positions, VOCABULARY), dim=1)
    top = log_probs.topk(k, dim=1)
    return GivenBuckets(top.indices, top.values), log_probs


def test_the_rest_of_the_mass_lies_evenly_on_all_other_tokens() -> None:
    buckets, whole = given()
    logits = EvenTail(buckets, VOCABULARY).logits_at(slice(None), 1.0, plain_log_sum_exp)
    found = torch.softmax(logits, dim=1)
    assert torch.allclose(found.sum(dim=1), torch.ones(7), atol=1e-6)
    for position in range(7):
        known = set(buckets.ids[position].tolist())
        rest = 1 - whole[position, list(known)].exp().sum().item()
        for token in range(VOCABULARY):
            expected = whole[position, token].exp().item() if token in known else rest / (VOCABULARY - 6)
            assert found[position, token].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("k", [3, 6])
def test_what_is_not_stored_of_the_given_tokens_is_in_the_tail(k: int) -> None:
    buckets, whole = given()
    encoder = given_encoder(TopK(k=k), VOCABULARY)
    mask = torch.tensor([[True, True, False, True], [True, True, True, True]])
    batch = Batch(("a", "b"), {"input_ids": torch.zeros(2, 4, dtype=torch.int64)}, torch.zeros(2, 4).long(), mask)
    counts, columns = encoder.encode(buckets, batch)
    assert counts == [3, 4]
    target = encoder.encoding.codec.target(columns)
    assert isinstance(target, TopKTargets)
    stored = target.buckets_at(slice(None), 1.0)
    expected = whole.topk(k, dim=1)
    assert torch.equal(stored.ids, expected.indices)
    # Half precision.
    assert torch.allclose(stored.log_head, expected.values, atol=0.02)
    tail = torch.log1p(-expected.values.exp().sum(dim=1))
    assert torch.allclose(stored.log_tail, tail, atol=0.02)
    assert torch.allclose(stored.log_head.exp().sum(dim=1) + stored.log_tail.exp(), torch.ones(7), atol=1e-3)


def test_a_tail_of_nothing_is_a_number() -> None:
    buckets = GivenBuckets(torch.tensor([[4, 2]]), torch.tensor([[math.log(0.75), math.log(0.25)]]))
    _, columns = given_encoder(TopK(k=2), VOCABULARY).encode(
        buckets, Batch(("a",), {}, torch.zeros(1, 1).long(), torch.ones(1, 1, dtype=torch.bool))
    )
    assert all(torch.isfinite(each.float()).all() for each in columns.values())


BATCH = Batch(
    ("a", "b"),
    {},
    torch.zeros(2, 4).long(),
    torch.tensor([[True, True, False, True], [True, True, True, True]]),
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ids, log_probs: (ids, log_probs + 2.0), "probabilities that sum to more than one: id a position 0"),
        (lambda ids, log_probs: (_set(ids, 4, 1, ids[4, 0]), log_probs), "a token twice: id b position 1"),
        (lambda ids, log_probs: (_set(ids, 2, 5, VOCABULARY), log_probs), "not one of the 50 of the vocabulary: id a"),
        (lambda ids, log_probs: (_set(ids, 3, 0, -1), log_probs), "not one of the 50 of the vocabulary: id b pos"),
        (lambda ids, log_probs: (ids, _set(log_probs, 6, 5, float("-inf"))), "not finite: id b position 3"),
        (lambda ids, log_probs: (ids, _set(log_probs, 6, 2, float("nan"))), "not finite: id b position 3"),
        (lambda ids, log_probs: (ids.flip(1), log_probs.flip(1)), "not in order, the likeliest first: id a"),
        (lambda ids, log_probs: (ids[:, :3], log_probs[:, :3]), "gives 3 tokens, and label.encoding keeps 4"),
        (lambda ids, log_probs: (ids[1:], log_probs[1:]), "answered for 6 positions of ids a to b, and 7 are learnt"),
    ],
)
def test_what_is_no_distribution_is_not_stored(
    change: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]], message: str
) -> None:
    buckets, _ = given()
    with pytest.raises(LabelStoreError) as error:
        given_encoder(TopK(k=4), VOCABULARY).encode(GivenBuckets(*change(buckets.ids, buckets.log_probs)), BATCH)
    assert message in str(error.value)


def test_log_probabilities_that_were_rounded_are_stored() -> None:
    buckets, _ = given()
    counts, _ = given_encoder(TopK(k=4), VOCABULARY).encode(GivenBuckets(buckets.ids, buckets.log_probs.half()), BATCH)
    assert counts == [3, 4]


def _set(values: torch.Tensor, position: int, token: int, value: float | torch.Tensor) -> torch.Tensor:
    changed = values.clone()
    changed[position, token] = value
    return changed


RECIPE = {
    "task": {"kind": "causal_lm"},
    "data": {"train": "train.jsonl", "validation": 0.1, "test": 0.1},
    "teacher": {"kind": "pretrained", "model": "org/name"},
}


@pytest.mark.parametrize(
    ("more", "lacks", "message"),
    [
        ({"adapt": {}}, "WEIGHTS", "adapt needs weights of the teacher, which teacher.kind: pretrained does not give"),
        ({"student": {"init": {"kind": "copy"}}}, "WEIGHTS", "student.init: copy needs weights"),
        ({}, "CONFIGURATION", "student needs a configuration"),
        ({"label": {"encoding": {"kind": "hidden"}}}, "HIDDEN_STATES", "label.encoding: hidden needs hidden states"),
        ({"label": {"encoding": {"kind": "top_k"}}}, "TOP_K", "label.encoding: top_k needs log-probabilities"),
        ({"label": {"encoding": {"kind": "top_k"}}}, "HIDDEN_STATES", "is known at temperature 1 alone. Set it to [1]"),
        ({"label": {"encoding": {"kind": "top_k"}}}, "WEIGHTS", "is known at temperature 1 alone. Set it to [1]"),
        # Its head is among them, and its layers are read as it runs here.
        ({}, "WEIGHTS", "label.encoding: low_rank needs weights"),
        ({"losses": [{"kind": "soft_targets"}, {"kind": "embeddings"}]}, "WEIGHTS", "losses[1]: embeddings needs w"),
        (
            {"losses": [{"kind": "soft_targets"}, {"kind": "hidden_states"}]},
            "HIDDEN_STATES",
            r"losses[1]: hidden_states needs hidden states",
        ),
        ({"label": {"responses": {"kind": "generated"}}}, "TEXT", "generated needs one teacher that writes"),
        ({}, "STILLNESS", "changes while it teaches"),
    ],
)
def test_what_a_teacher_cannot_give_is_refused_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, more: dict[str, object], lacks: str, message: str
) -> None:
    from potstill.capabilities import Capability
    from potstill.teachers import PretrainedTeacher

    Recipe.model_validate(RECIPE | more)
    left = frozenset(Capability) - {Capability[lacks]}
    monkeypatch.setattr(PretrainedTeacher, "gives", property(lambda self: left))
    if lacks == "STILLNESS":
        from potstill.capabilities import require_still

        facts = Recipe.model_validate(RECIPE | more).facts
        assert message in next(require_still("teacher", facts))
        return
    with pytest.raises(ValueError) as error:
        Recipe.model_validate(RECIPE | more)
    assert message in str(error.value)
