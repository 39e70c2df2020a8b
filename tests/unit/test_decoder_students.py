"""Students of decoders, and what is cut by importance: whole groups of heads, channels, units and layers."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Qwen2Config

from potstill.errors import ModelError
from potstill.models import Part, family_of
from potstill.signals import Batch
from potstill.students import (
    Copy,
    Importance,
    Random,
    Shrunk,
    copy_from_teacher,
    measure_importance,
    model_shape,
    shape_notes,
    student_config,
)
from potstill.tasks import CausalLM
from potstill.tasks.causal_lm import ask_for_hidden_states
from potstill.tasks.weights import check_weights
from tests.tiny_decoders import DECODERS, decoder, decoder_config, layers_of, queries_and_values


@pytest.mark.parametrize("family", DECODERS)
def test_a_decoder_keeps_the_chosen_layers_and_all_else_as_it_is(family: str) -> None:
    teacher = decoder(family)
    settings = Shrunk(layers=3, width=16)
    student = CausalLM().new_model(student_config(teacher.config, settings))
    assert isinstance(settings.init, Copy)
    copy_from_teacher(student, teacher, settings.init)
    theirs = teacher.state_dict()
    for name, tensor in student.state_dict().items():
        # Layers 0, 2 and 4 of five.
        source = re.sub(r"(layers|h)\.(\d)", lambda found: f"{found[1]}.{2 * int(found[2])}", name)
        assert torch.equal(tensor, theirs[source]), name


@pytest.mark.parametrize("family", DECODERS)
def test_a_decoder_of_the_teachers_size_is_its_exact_copy(family: str) -> None:
    teacher = decoder(family, tie_word_embeddings=True).eval()
    student = CausalLM().new_model(student_config(teacher.config, Shrunk(layers=5, width=16))).eval()
    copy_from_teacher(student, teacher, Copy())
    ids = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(student(input_ids=ids).logits, teacher(input_ids=ids).logits)


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("pattern", ["spread", "last"])
def test_a_shallower_decoder_is_its_teacher_without_the_other_layers(family: str, pattern: Any) -> None:
    """With the window, the rotary positions and the experts of the layers that are kept."""
    teacher = decoder(family).eval()
    settings = Shrunk(layers=3, width=16, init=Copy(layers=pattern))
    student = CausalLM().new_model(student_config(teacher.config, settings)).eval()
    assert isinstance(settings.init, Copy)
    copy_from_teacher(student, teacher, settings.init)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        whole = teacher(input_ids=ids, use_cache=False).logits
        for left_out in (1, 3) if pattern == "spread" else (0, 1):
            layers_of(teacher)[left_out].forward = lambda hidden, *others, **named: hidden
        expected = teacher(input_ids=ids, use_cache=False).logits
        assert torch.equal(student(input_ids=ids, use_cache=False).logits, expected)
    assert not torch.allclose(expected, whole, atol=1e-3)


@pytest.mark.parametrize("family", DECODERS)
def test_a_saved_student_is_loaded_with_all_of_its_weights(family: str, tmp_path: Path) -> None:
    teacher = decoder(family, **GROUPED)
    settings = Shrunk(layers=2, width="1/2", intermediate=8)
    student = CausalLM().new_model(student_config(teacher.config, settings)).eval()
    copy_from_teacher(student, teacher, Copy())
    student.save_pretrained(tmp_path)
    found = check_weights(CausalLM().new_model, student.config, str(tmp_path), new_head=False)
    assert found is not None and not found.new and not found.unread
    loaded = CausalLM().load_model(str(tmp_path)).eval()
    ids = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids).logits, student(input_ids=ids).logits)


def test_the_kinds_of_layers_are_those_of_the_layers_that_are_kept() -> None:
    kinds = ["full_attention", "sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    teacher = decoder("qwen3", layer_types=kinds, use_sliding_window=True, sliding_window=4)
    config = student_config(teacher.config, Shrunk(layers=3, width=16))
    assert config.layer_types == ["full_attention"] * 3


def test_a_llama_of_a_mistral_is_it_exactly_within_the_window_and_takes_no_more() -> None:
    teacher = decoder("mistral", sliding_window=8, max_position_embeddings=32).eval()
    settings = Shrunk(layers=5, width=16, family="llama")
    made = student_config(teacher.config, settings)
    assert made.max_position_embeddings == 8
    assert shape_notes(teacher.config, settings, made) == [
        "student.family: a llama has no sliding window of 8 tokens; made 8 positions instead of 32."
    ]
    student = CausalLM().new_model(made).eval()
    copy_from_teacher(student, teacher, Copy())
    ids = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(student(input_ids=ids[:, :8]).logits, teacher(input_ids=ids[:, :8]).logits)
        assert not torch.allclose(student(input_ids=ids).logits, teacher(input_ids=ids).logits)


GROUPED = {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8}
"""Three heads share keys and values."""


def batches(count: int = 2) -> list[Batch]:
    generator = torch.Generator().manual_seed(8)
    found = []
    for _ in range(count):
        ids = torch.randint(0, 40, (3, 9), generator=generator)
        positions = torch.arange(9).expand(3, 9)
        mask = torch.rand(3, 9, generator=generator) < 0.7
        found.append(Batch(("a", "b", "c"), {"input_ids": ids, "position_ids": positions}, ids, mask))
    return found


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("width", ["slice", "project", "pruned"])
def test_a_narrower_decoder_is_legal_and_keeps_whole_groups_of_heads(family: str, width: Any) -> None:
    teacher = decoder(family, **GROUPED, tie_word_embeddings=True).eval()
    settings = Shrunk(layers=2, width="1/2", init=Copy(width=width))
    config = student_config(teacher.config, settings)
    assert (config.hidden_size, config.num_attention_heads) == (24, 3)
    made = model_shape(config, 1, 1, 0)
    # Units of experts are in whole rows.
    units = 16 if family == "qwen3_moe" else 12
    assert (made.layers, made.intermediate, family_of(config).head_size(config)) == (2, units, 8)
    groups = 3 // family_of(config).key_value_heads(config)
    assert groups == (1 if family == "gpt2" else 3)
    student = CausalLM().new_model(config).eval()
    importance = measure_importance(teacher, batches(), ask_for_hidden_states)
    assert isinstance(settings.init, Copy)
    copy_from_teacher(student, teacher, settings.init, importance)
    assert student.lm_head.weight is student.get_input_embeddings().weight
    with torch.no_grad():
        said = student(input_ids=torch.arange(12)[None]).logits
    assert torch.isfinite(said).all()
    # A group's queries stay with the keys that they were trained for.
    first = importance.heads[Part.ONLY][0].reshape(-1, groups).sum(dim=1)
    kept = (
        first.argsort(descending=True)[: 3 // groups].sort().values if width == "pruned" else torch.arange(3 // groups)
    )
    for size, own, its in zip(
        (8 * groups, 8), queries_and_values(student, 0), queries_and_values(teacher, 0), strict=True
    ):
        rows = torch.cat([torch.arange(size) + size * group for group in kept])
        channels = importance.channels.argsort(descending=True)[:24].sort().values
        if width != "project":
            of_kept = its[rows][:, torch.arange(24) if width == "slice" else channels]
            torch.testing.assert_close(own, of_kept, rtol=1e-6, atol=0)


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("init", [Copy(width="pruned"), Copy(layers="block_influence"), Copy(width="project")])
def test_a_decoder_of_full_size_is_its_teacher_however_it_is_cut(family: str, init: Copy) -> None:
    teacher = decoder(family, **GROUPED).eval()
    settings = Shrunk(layers=5, width=48, init=init)
    student = CausalLM().new_model(student_config(teacher.config, settings)).eval()
    copy_from_teacher(student, teacher, init, measure_importance(teacher, batches(), ask_for_hidden_states))
    ids = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(student(input_ids=ids).logits, teacher(input_ids=ids).logits)


def test_importance_is_that_of_its_definitions() -> None:
    teacher = decoder("llama", **GROUPED).eval()
    found = measure_importance(teacher, batches(), ask_for_hidden_states)
    states: list[list[torch.Tensor]] = [[] for _ in range(6)]
    heads: list[list[torch.Tensor]] = [[] for _ in range(5)]
    units: list[list[torch.Tensor]] = [[] for _ in range(5)]
    for batch in batches():
        with torch.no_grad():
            hidden = teacher.model.embed_tokens(batch.inputs["input_ids"])
            rotary = teacher.model.rotary_emb(hidden, batch.inputs["position_ids"])
            states[0].append(hidden[batch.mask])
            for number, layer in enumerate(teacher.model.layers):
                inside: dict[str, torch.Tensor] = {}
                for name, module in (("heads", layer.self_attn.o_proj), ("units", layer.mlp.down_proj)):
                    module.forward = lambda given, name=name, module=module, inside=inside: (
                        inside.__setitem__(name, given),
                        nn.functional.linear(given, module.weight),
                    )[1]
                hidden = layer(hidden, position_embeddings=rotary, attention_mask=None)
                heads[number].append(inside["heads"][batch.mask])
                units[number].append(inside["units"][batch.mask])
                states[number + 1].append(hidden[batch.mask])
    for number in range(5):
        before, after = torch.cat(states[number]), torch.cat(states[number + 1])
        cosine = (before * after).sum(-1) / (before.norm(dim=-1) * after.norm(dim=-1))
        assert found.layers[Part.ONLY][number].item() == pytest.approx(1 - cosine.mean().item(), abs=1e-5)
        out = torch.cat(heads[number]).reshape(-1, 6, 8)
        torch.testing.assert_close(
            found.heads[Part.ONLY][number], out.square().mean(dim=(0, 2)).sqrt(), rtol=1e-4, atol=1e-6
        )
        torch.testing.assert_close(
            found.units[Part.ONLY][number], torch.cat(units[number]).square().mean(dim=0).sqrt(), rtol=1e-4, atol=1e-6
        )
    assert not any(module._forward_pre_hooks for module in teacher.modules())


def test_the_layers_with_the_most_influence_are_kept_in_their_order() -> None:
    teacher = decoder("llama", **GROUPED)
    zeros = {Part.ONLY: torch.zeros(5, 1)}
    importance = Importance({Part.ONLY: torch.tensor([0.1, 0.9, 0.2, 0.3, 0.8])}, torch.ones(48), zeros, zeros)
    student = CausalLM().new_model(student_config(teacher.config, Shrunk(layers=3, width=48)))
    copy_from_teacher(student, teacher, Copy(layers="block_influence"), importance)
    for own, source in enumerate((1, 3, 4)):
        theirs = teacher.model.layers[source].state_dict()
        assert all(torch.equal(t, theirs[name]) for name, t in student.model.layers[own].state_dict().items())


def test_a_pruned_student_is_nearer_to_a_teacher_with_silent_channels_than_a_sliced_one() -> None:
    """Channels, heads and units that are nearly silent stand first, where slicing keeps them."""
    teacher = decoder("llama", **GROUPED, tie_word_embeddings=True).eval()
    with torch.no_grad():
        for name, parameter in teacher.named_parameters():
            if "embed" in name or "o_proj" in name or "down_proj" in name:
                (parameter if "embed" in name else parameter.T)[:, :24] *= 1e-3
    importance = measure_importance(teacher, batches(), ask_for_hidden_states)
    ids = torch.arange(20)[None]

    def kl(init: Copy) -> float:
        student = CausalLM().new_model(student_config(teacher.config, Shrunk(layers=5, width=24, heads=6, init=init)))
        copy_from_teacher(student, teacher, init, importance)
        with torch.no_grad():
            p, q = (model.eval()(input_ids=ids).logits.log_softmax(-1) for model in (teacher, student))
        return float((p.exp() * (p - q)).sum(-1).mean())

    assert kl(Copy(width="pruned")) < 0.1 * kl(Copy(width="slice"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 24, "heads": 4}, r"At width 24 use one of 3, 6"),
        ({"width": 25}, r"Use a multiple of 3\."),
        ({"width": 24, "dropout": 0.1}, r"student\.dropout: a decoder"),
        ({"width": 24, "key_value_heads": 2}, r"At this width set student\.heads to one of 2, 4, 6, 12\."),
        ({"width": 42, "heads": 14, "key_value_heads": 7}, r"At this width set student\.heads to one of 7, 21\."),
        ({"width": 45, "heads": 9, "key_value_heads": 3}, r"none at this width; set it to a multiple of 6\."),
    ],
)
def test_a_decoder_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        student_config(decoder("llama", **GROUPED).config, Shrunk.model_validate({"layers": 2} | change))


def test_heads_of_an_odd_number_of_channels_are_refused_since_no_position_can_turn_them() -> None:
    # Of configurations that state no size of a head, transformers checks none.
    sizes = {"hidden_size": 42, "num_attention_heads": 6, "num_key_value_heads": 2}
    config = Qwen2Config(**sizes, vocab_size=40, num_hidden_layers=2)
    with pytest.raises(RuntimeError, match="size of tensor"):
        CausalLM().new_model(config)(input_ids=torch.arange(4)[None])
    with pytest.raises(ModelError, match=r"makes heads of 7 channels.*head_dim must be even"):
        student_config(config, Shrunk(layers=2, width=42))


@pytest.mark.parametrize(
    ("family", "of_teacher", "change", "message"),
    [
        ("phi3", {}, {"width": 20}, r"student\.width 20: phi3 models have heads times their size as width.*of 24\."),
        ("phi3", {}, {"width": 24, "heads": 6}, r"heads 6: .*times 8, their size, must be the width.* one of 3\."),
        (
            "phi3",
            {},
            {"width": 24, "heads": 2, "key_value_heads": 1, "init": {"kind": "random"}},
            r"makes heads of 12 channels.*of 8 \(longrope\)",
        ),
        ("phi3", {"rope_parameters": None, "head_dim": 16}, {}, r"has heads of 16 channels \(head_dim\)"),
        ("gpt2", {}, {"width": 20}, r"student\.width 20: gpt2 models .*Use a multiple of 8\."),
        ("gpt2", {}, {"width": 24, "heads": 2, "key_value_heads": 1}, r"key_value_heads: all heads .* of their own"),
        (
            "gpt2",
            {"scale_attn_by_inverse_layer_idx": True},
            {},
            r"no student can be cut of this gpt2 model.*they stand",
        ),
        ("gpt2", {"add_cross_attention": True}, {}, r"attention to a second model \(add_cross_attention\)"),
        ("gemma3_text", {"use_bidirectional_attention": True}, {}, r"sees the tokens that follow too"),
        ("gemma2", {}, {"dropout": 0.1}, r"student\.dropout: a decoder \(gemma2\) has none"),
    ],
)
def test_what_a_family_does_not_allow_is_refused(
    family: str, of_teacher: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    config = decoder_config(family, **GROUPED)
    for name, value in of_teacher.items():
        setattr(config, name, value)
    with pytest.raises(ModelError, match=message):
        student_config(config, Shrunk.model_validate({"layers": 2} | change))


def test_dropout_is_set_where_a_decoder_has_it() -> None:
    made = student_config(decoder_config("gpt2"), Shrunk(layers=2, dropout=0.3))
    assert (made.resid_pdrop, made.embd_pdrop, made.attn_pdrop) == (0.3, 0.3, 0.3)
    made = student_config(decoder_config("phi3"), Shrunk(layers=2, dropout=0.3))
    assert (made.resid_pdrop, made.attention_dropout) == (0.3, 0.3)


def test_units_that_gpt2_does_not_state_are_four_for_each_channel() -> None:
    config = decoder_config("gpt2", intermediate_size=None)
    assert model_shape(config, 1, 1, 0).intermediate == 64
    assert student_config(config, Shrunk(layers=2, width="1/2")).n_inner == 32


def test_heads_of_another_size_are_made_where_positions_allow_it() -> None:
    config = decoder_config("phi3", **GROUPED, rope_parameters={"rope_type": "default"})
    made = student_config(config, Shrunk(layers=2, width=24, heads=2, key_value_heads=1, init=Random()))
    attention = CausalLM().new_model(made).model.layers[0].self_attn
    assert attention.head_dim == 12 and attention.qkv_proj.weight.shape == (48, 24)
