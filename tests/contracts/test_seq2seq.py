"""Encoder-decoders through the one way of asking: against the models' own losses, and against eager attention."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, T5Config, T5ForConditionalGeneration

from potstill.data.pair_tokens import PairRows
from potstill.data.pairs import Pair
from potstill.errors import ModelError
from potstill.features import capture_features, features_at
from potstill.losses import HardLabels, MixedLoss
from potstill.schedules import Constant
from potstill.signals import Batch, Signals
from potstill.targets import HiddenTargets
from potstill.tasks import Seq2Seq
from potstill.tasks.seq2seq import ask_for_hidden_states, head_of, require_known_head, start_token
from potstill.teachers import FrozenTeacher
from tests.pair_models import SPECIAL, WORDS, pair_model, pair_tokenizer

FAMILIES = ("t5", "mt5", "bart", "marian")
PAIRS = [
    Pair("a", "what colour is the hat ?", "red is the hat"),
    Pair("b", "w1 hat", "blue"),
    Pair("c", "w3 w4 w5 is", "the the cup"),
]
CPU = torch.device("cpu")


def rows(family: str, pairs: list[Pair] = PAIRS) -> PairRows:
    encoded = Seq2Seq(max_length=12, max_target_length=8).encode(pairs, pair_tokenizer(family))
    # The padding is another token that occurs in texts, so that nothing can follow from it.
    return replace(encoded, pad_id=len(SPECIAL[family]))


def hard() -> MixedLoss:
    return MixedLoss([HardLabels(weight=Constant(value=1.0)).build()])


def summed(model: PreTrainedModel, batch: Batch) -> Tensor:
    return hard()(ask_for_hidden_states(model, batch), Signals(), batch, progress=0.0).total


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("changes", [{}, {"scale_embedding": True}, {"tie_word_embeddings": False}])
def test_the_loss_is_the_models_own_and_so_is_its_gradient(family: str, changes: dict[str, Any]) -> None:
    if family == "t5":
        changes = {key: value for key, value in changes.items() if key != "scale_embedding"}
        changes |= {"feed_forward_proj": "gated-gelu"} if changes else {}
    model = pair_model(family, 1, **changes).double()
    batch = rows(family).collate([0, 1, 2])
    own = (
        model(
            input_ids=batch.inputs["input_ids"], attention_mask=batch.inputs["attention_mask"], labels=batch.labels
        ).loss
        * batch.mask.sum()
    )
    total = summed(model, batch)
    assert total.item() == pytest.approx(own.item(), rel=1e-9)
    own.backward()
    # Where nothing is tied, BART has a matrix that nobody reads.
    expected = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    assert len(expected) > 40
    model.zero_grad()
    total.backward()
    found = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    assert set(found) == set(expected)
    for name, grad in found.items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-7, atol=1e-9, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_and_micro_batches_change_nothing(family: str) -> None:
    model, encoded = pair_model(family, 1).double(), rows(family)
    whole = summed(model, encoded.collate([0, 1, 2])).item()
    apart = sum(summed(model, encoded.collate([number])).item() for number in range(3))
    assert whole == pytest.approx(apart, rel=1e-10)
    batch = encoded.collate([0, 1, 2])
    nothing = replace(batch, mask=torch.zeros_like(batch.mask))
    assert summed(model, nothing).item() == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_gives_the_models_own_logits(family: str) -> None:
    model, batch = pair_model(family, 2), rows(family).collate([0, 2])
    said = FrozenTeacher(model, CPU, ask_for_hidden_states)(batch).target
    assert isinstance(said, HiddenTargets)
    with torch.no_grad():
        own = model(
            input_ids=batch.inputs["input_ids"], attention_mask=batch.inputs["attention_mask"], labels=batch.labels
        ).logits[batch.mask]
    torch.testing.assert_close(said.head.logits(said.hidden), own, rtol=1e-5, atol=1e-5)
    require_known_head(model, "here")


def test_t5_is_scaled_where_its_configuration_says_so() -> None:
    assert head_of(pair_model("t5", 1)).scale == pytest.approx(32**-0.5)
    assert head_of(pair_model("t5", 1, tie_word_embeddings=False)).scale == 1.0


def test_a_head_that_does_more_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = pair_model("bart", 1)
    usual = model.lm_head.forward
    monkeypatch.setattr(model.lm_head, "forward", lambda hidden: usual(hidden) ** 3)
    with pytest.raises(ModelError, match=r"here: its logits are not those of its output layer.*'bart'"):
        require_known_head(model, "here")


def test_each_family_starts_from_a_token_of_its_own() -> None:
    assert start_token(pair_model("t5", 1).config) == 0
    assert start_token(pair_model("bart", 1).config) == SPECIAL["bart"].index("</s>")
    config = T5Config(vocab_size=len(WORDS) + 3)
    with pytest.raises(ModelError, match="no decoder_start_token_id"):
        Seq2Seq().check_tokenizer(pair_tokenizer("t5"), config)
    config = T5Config(vocab_size=9, decoder_start_token_id=0)
    with pytest.raises(ModelError, match="has the id 9, and the model has 9 tokens"):
        Seq2Seq().check_tokenizer(pair_tokenizer("t5"), config)


def test_a_model_that_is_saved_is_loaded_as_it_was(tmp_path: Path) -> None:
    """Also T5 of version 1.1, whose configuration has another scale."""
    for tied in (True, False):
        model = pair_model("t5", 3, tie_word_embeddings=tied)
        model.save_pretrained(tmp_path / str(tied))
        again = Seq2Seq().load_model(str(tmp_path / str(tied)))
        assert isinstance(again, T5ForConditionalGeneration)
        assert head_of(again).scale == head_of(model).scale


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_read_where_nothing_is_asked(family: str) -> None:
    model, batch = pair_model(family, 1), rows(family).collate([0])
    with capture_features(model, frozenset()) as taken:
        ask_for_hidden_states(model, batch)
    assert features_at(taken, batch) == {}
