"""Students of models with experts: layers keep their kind, experts are the busiest, and their units their own."""

from typing import Any

import pytest
import torch

from potstill.errors import ModelError
from potstill.models import FAMILIES, Part
from potstill.signals import Batch
from potstill.students import Copy, Shrunk, copy_from_teacher, measure_importance, model_shape, student_config
from potstill.tasks import CausalLM
from potstill.tasks.causal_lm import ask_for_hidden_states
from tests.tiny_decoders import decoder, decoder_config

GROUPED = {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2}
IDS = torch.randint(0, 40, (3, 9), generator=torch.Generator().manual_seed(8))
MASK = torch.rand(3, 9, generator=torch.Generator().manual_seed(9)) < 0.7


def batch() -> Batch:
    positions = torch.arange(9).expand(3, 9)
    return Batch(("a", "b", "c"), {"input_ids": IDS, "position_ids": positions}, IDS, MASK)


def routed(model: Any, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What goes into the experts of a layer, of tokens that count, and which experts each is sent to."""
    kept: list[torch.Tensor] = []
    gate = model.model.layers[layer].mlp.gate
    handle = gate.register_forward_pre_hook(lambda module, given: kept.append(given[0]))
    with torch.no_grad():
        model(input_ids=IDS, use_cache=False)
    handle.remove()
    hidden = kept[0].reshape(27, -1)[MASK.reshape(-1)]
    scores = torch.nn.functional.linear(hidden, gate.weight)
    return hidden, scores.topk(2, dim=-1).indices


def test_a_layer_keeps_its_kind_in_a_shallower_student() -> None:
    config = decoder_config("qwen3_moe", mlp_only_layers=[1], decoder_sparse_step=2)
    # Layers 0, 1, 2 and 4 have no experts.
    made = student_config(config, Shrunk(layers=4, width=16))
    kinds = [type(layer.mlp).__name__ for layer in CausalLM().new_model(made).model.layers]
    # Layers 0, 1, 3 and 4 of five.
    assert kinds == ["Qwen3MoeMLP", "Qwen3MoeMLP", "Qwen3MoeSparseMoeBlock", "Qwen3MoeMLP"]
    assert FAMILIES["qwen3_moe"].layer_kinds(config) == ["dense", "dense", "dense", "experts", "dense"]
    same = student_config(config, Shrunk(layers=5, width=16))
    assert (same.mlp_only_layers, same.decoder_sparse_step) == ([1], 2)
    with pytest.raises(ModelError, match=r"several kinds \(dense, experts\)\. Use spread"):
        student_config(config, Shrunk(layers=3, width=16, init=Copy(layers="block_influence")))


def test_the_importance_of_units_is_that_of_the_tokens_that_an_expert_was_sent() -> None:
    model: Any = decoder("qwen3_moe", **GROUPED).eval()
    found = measure_importance(model, [batch(), batch()], ask_for_hidden_states)
    assert set(found.experts) == {0, 1, 3, 4}
    hidden, chosen = routed(model, 3)
    experts = model.model.layers[3].mlp.experts
    for expert in range(4):
        sent = hidden[(chosen == expert).any(dim=1)]
        gates, units = (sent @ experts.gate_up_proj[expert].T).split(24, dim=1)
        inside = (torch.nn.functional.silu(gates) * units).square()
        expected = inside.mean(dim=0).sqrt() if len(sent) else torch.zeros(24)
        torch.testing.assert_close(found.experts[3].units[expert], expected, rtol=1e-4, atol=1e-6)
        assert found.experts[3].tokens[expert] == 2 * len(sent)
    # The layer without experts, and no other, has units of its own.
    assert found.units[Part.ONLY].shape == (5, 20) and found.units[Part.ONLY][2].min() > 0
    assert not found.units[Part.ONLY][[0, 1, 3, 4]].any()


@pytest.mark.parametrize("width", ["slice", "pruned"])
def test_experts_are_the_first_or_the_busiest_with_their_most_active_units(width: Any) -> None:
    teacher: Any = decoder("qwen3_moe", **GROUPED).eval()
    init = Copy(width=width)
    settings = Shrunk(layers=5, width=48, experts=3, intermediate=8, init=init)
    config = student_config(teacher.config, settings)
    student: Any = CausalLM().new_model(config).eval()
    importance = measure_importance(teacher, [batch()], ask_for_hidden_states)
    copy_from_teacher(student, teacher, init, importance)
    for layer in (0, 1, 3, 4):
        own, its = student.model.layers[layer].mlp, teacher.model.layers[layer].mlp
        busy = importance.experts[layer]
        kept = busy.tokens.argsort(descending=True, stable=True)[:3].sort().values
        for place, expert in enumerate(kept if width == "pruned" else torch.arange(3)):
            assert torch.equal(own.gate.weight[place], its.gate.weight[expert])
            units = torch.arange(8)
            if width == "pruned":
                units = busy.units[expert].argsort(descending=True, stable=True)[:8].sort().values
            matrix = its.experts.gate_up_proj[expert]
            expected = torch.cat([matrix[units], matrix[24 + units]])
            assert torch.equal(own.experts.gate_up_proj[place], expected)
            assert torch.equal(own.experts.down_proj[place], its.experts.down_proj[expert][:, units])
    assert student.model.layers[2].mlp.up_proj.weight.shape == (7, 48)
    with torch.no_grad():
        assert torch.isfinite(student(input_ids=IDS).logits).all()


def test_a_token_is_counted_to_use_its_experts_alone() -> None:
    config = decoder_config("qwen3_moe")
    made = model_shape(config, 1000, 1, 0)
    # Two of four experts, three matrices each, in four layers of five.
    assert made.idle_parameters == 2 * 3 * 16 * 24 * 4
    assert "idle_parameters" not in model_shape(decoder_config("llama"), 1, 1, 0).model_dump()


def test_experts_learn_where_the_teacher_is_followed() -> None:
    model = decoder("qwen3_moe").train()
    hidden = model.base_model(input_ids=IDS, use_cache=False).last_hidden_state
    hidden.square().mean().backward()
    for name, weight in model.named_parameters():
        if "experts" in name or "gate.weight" in name:
            assert weight.grad is not None and weight.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"experts": 5},
            r"student\.experts: 5, and the teacher has 4, .* chooses 2 for each token\. Set it from 2 to 4",
        ),
        ({"experts": 1}, r"student\.experts: 1, and the teacher has 4"),
        ({"intermediate": 10}, r"student\.intermediate 10: experts are .*rows of 8 numbers\. Use a multiple of 8"),
        ({"width": 12}, r"student\.width 12: experts are computed together"),
    ],
)
def test_what_experts_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        student_config(decoder_config("qwen3_moe"), Shrunk.model_validate({"layers": 2, "width": 16} | change))


def test_models_without_experts_have_none_to_choose_from() -> None:
    with pytest.raises(ModelError, match=r"student\.experts: models of the family 'llama' have none; leave it out"):
        student_config(decoder_config("llama"), Shrunk(layers=2, width=16, experts=2))
