"""What every family of decoders must be to labels, losses and packed rows: its own logits, each example by itself."""

from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div

from potstill.divergences import ForwardKL
from potstill.errors import ModelError
from potstill.features import capture_features
from potstill.labels.error import as_tensors, stored_distribution
from potstill.labels.hidden import Hidden
from potstill.labels.top_k import TopK
from potstill.losses.chunked import chunked_loss
from potstill.losses.kernels import Kernels
from potstill.losses.terms import HardTerm, SoftTerm
from potstill.models import FAMILIES
from potstill.signals import Read, Signal
from potstill.targets import LogitTargets
from potstill.tasks.causal_lm import head_of, require_known_head
from tests.tiny_decoders import DECODERS, decoder

IDS = torch.tensor([[5, 9, 3, 30, 12, 7, 21, 3, 39, 8, 17, 4]])


def own_logits(model: Any) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=IDS, use_cache=False).logits[0]
    return logits


def hidden_of(model: Any) -> torch.Tensor:
    hidden: torch.Tensor = model.base_model(input_ids=IDS, use_cache=False).last_hidden_state[0]
    return hidden


@pytest.mark.parametrize("family", DECODERS)
def test_the_head_makes_the_models_own_logits(family: str) -> None:
    model = decoder(family, tie_word_embeddings=False).eval()
    require_known_head(model, family)
    with torch.no_grad():
        torch.testing.assert_close(head_of(model).logits(hidden_of(model)), own_logits(model), rtol=1e-5, atol=1e-5)


def test_caps_and_scales_of_logits_show_in_these_models() -> None:
    for family, name in (("gemma2", "final_logit_softcapping"), ("granite", "logits_scaling")):
        model = decoder(family).eval()
        head = head_of(model)
        setattr(model.config, name, 5.0)
        with torch.no_grad():
            assert not torch.allclose(head.logits(hidden_of(model)), own_logits(model), atol=1e-2)


@pytest.mark.parametrize("family", DECODERS)
def test_stored_labels_are_the_models_own_distributions(family: str) -> None:
    model = decoder(family).eval()
    with torch.no_grad():
        hidden, own = hidden_of(model), own_logits(model)
        head = head_of(model)
        for encoding, bound in ((TopK(k=40), 1e-6), (Hidden(head=4), 1e-4)):
            codec = encoding.fit(hidden, head, (1.0, 2.0))
            target = codec.target(as_tensors(codec.encode(hidden, head.logits(hidden))))
            for temperature in (1.0, 2.0):
                stored = stored_distribution(target, temperature, 40)[0]
                expected = torch.log_softmax(own / temperature, dim=-1)
                assert kl_div(stored, expected, log_target=True, reduction="batchmean") < bound


@pytest.mark.parametrize("family", DECODERS)
def test_losses_in_chunks_are_those_of_the_models_own_logits(family: str) -> None:
    model, teacher = decoder(family, tie_word_embeddings=False).eval(), decoder(family, num_hidden_layers=4).eval()
    labels = IDS[0].roll(-1)
    with torch.no_grad():
        target = own_logits(teacher)
    terms = [HardTerm("hard", 0.3), SoftTerm("soft", ForwardKL(), 0.7, 2.0)]
    made = chunked_loss(
        hidden_of(model),
        head_of(model),
        labels,
        LogitTargets(target),
        terms,
        kernels=Kernels(compiled=False),
        rows_at_once=5,
    )
    own = own_logits(model)
    soft = kl_div((own / 2).log_softmax(-1), (target / 2).log_softmax(-1), log_target=True, reduction="sum") * 4
    expected = 0.3 * cross_entropy(own, labels, reduction="sum") + 0.7 * soft
    torch.testing.assert_close(made.total, expected, rtol=1e-4, atol=1e-4)
    weights = [each for each in model.parameters() if each.requires_grad]
    slopes = [torch.autograd.grad(each, weights, allow_unused=True) for each in (made.total, expected)]
    for mine, its in zip(*slopes, strict=True):
        assert (mine is None) == (its is None)
        if mine is not None:
            torch.testing.assert_close(mine, its, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", DECODERS)
def test_examples_in_one_row_do_not_see_each_other(family: str) -> None:
    model = decoder(family).eval()
    first, second = IDS[:, :7], IDS[:, 7:]
    positions = torch.cat([torch.arange(7), torch.arange(5)])[None]
    with torch.no_grad():
        packed = model.base_model(input_ids=IDS, position_ids=positions, use_cache=False).last_hidden_state
        apart = [model.base_model(input_ids=each, use_cache=False).last_hidden_state for each in (first, second)]
    torch.testing.assert_close(packed, torch.cat(apart, dim=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", DECODERS)
def test_hidden_states_are_those_that_transformers_gives(family: str) -> None:
    model = decoder(family).eval()
    reads = frozenset(Read(Signal.HIDDEN_STATES, layer) for layer in range(5))
    reads |= {Read(Signal.HIDDEN_STATES, 5, normed=True)}
    with torch.no_grad(), capture_features(model, reads) as taken:
        said = model(input_ids=IDS, use_cache=False, output_hidden_states=True)
    for read, found in taken.at(torch.ones_like(IDS, dtype=torch.bool)).items():
        torch.testing.assert_close(found, said.hidden_states[read.layer][0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", DECODERS)
def test_attention_maps_are_those_of_eager_attention_or_refused_with_the_reason(family: str) -> None:
    model = decoder(family).eval()
    reads = frozenset(Read(Signal.ATTENTION, layer) for layer in (1, 3, 5))
    if (reason := FAMILIES[family].without_maps) is not None:
        with pytest.raises(ModelError, match=reason), capture_features(model, reads):
            pass
        return
    with torch.no_grad(), capture_features(model, reads) as taken:
        model(input_ids=IDS, use_cache=False)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        said = model(input_ids=IDS, use_cache=False, output_attentions=True).attentions
    for read, found in taken.at(torch.ones_like(IDS, dtype=torch.bool)).items():
        torch.testing.assert_close(found.exp(), said[read.layer - 1][0].transpose(0, 1), rtol=1e-4, atol=1e-5)
