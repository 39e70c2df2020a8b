"""Students: legal shapes, and first weights cut from the teacher."""

import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
)
from transformers import RobertaForSequenceClassification as Roberta

from potstill.errors import ModelError
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
from potstill.students.copying import layer_map, principal_directions
from potstill.tasks import CausalLM, TextClassification
from potstill.tasks.causal_lm import ask_for_hidden_states
from potstill.tasks.text_classification import ask_for_logits

SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 20,
    "num_labels": 3,
}
TOKENS = torch.tensor([[2, 5, 7, 9, 3], [2, 8, 3, 1, 1]])
ATTENTION = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def teacher_of(family: str) -> nn.Module:
    torch.manual_seed(11)
    config = BertConfig(**SIZES) if family == "bert" else RobertaConfig(**SIZES)
    model = BertForSequenceClassification(config) if family == "bert" else Roberta(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


@pytest.fixture(scope="module", params=["bert", "roberta"])
def teacher(request: pytest.FixtureRequest) -> nn.Module:
    return teacher_of(request.param)


def student_of(teacher: nn.Module, settings: Shrunk) -> nn.Module:
    torch.manual_seed(99)
    model = TextClassification().new_model(student_config(teacher.config, settings)).eval()
    if isinstance(settings.init, Copy):
        copy_from_teacher(model, teacher, settings.init)
    return model


def say(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=TOKENS, attention_mask=ATTENTION).logits
    return logits


@pytest.mark.parametrize("layers", ["spread", "first", "last"])
@pytest.mark.parametrize("width", ["slice", "project"])
def test_a_copy_in_the_teachers_own_shape_is_the_teacher(teacher: nn.Module, layers: Any, width: Any) -> None:
    student = student_of(teacher, Shrunk(layers=4, width=24, init=Copy(layers=layers, width=width)))
    for name, parameter in student.named_parameters():
        assert torch.equal(parameter, teacher.get_parameter(name)), name
    assert torch.equal(say(student), say(teacher))


def test_a_student_of_random_weights_is_not_its_teacher(teacher: nn.Module) -> None:
    student = student_of(teacher, Shrunk(layers=4, width=24, init=Random()))
    assert not torch.allclose(say(student), say(teacher), atol=1e-3)


@pytest.mark.parametrize(("layers", "chosen"), [("spread", [0, 3]), ("first", [0, 1]), ("last", [2, 3])])
def test_a_shallower_student_has_the_chosen_layers(teacher: nn.Module, layers: Any, chosen: list[int]) -> None:
    student = student_of(teacher, Shrunk(layers=2, width=24, init=Copy(layers=layers)))
    for number, source in enumerate(chosen):
        own = student.base_model.encoder.layer[number].state_dict()
        given_by = teacher.base_model.encoder.layer[source].state_dict()
        assert all(torch.equal(own[name], given_by[name]) for name in own)


@pytest.mark.parametrize("width", ["slice", "project"])
def test_a_narrower_student_is_cut_deterministically_and_listens_to_its_input(teacher: nn.Module, width: Any) -> None:
    settings = Shrunk(layers=2, width="1/2", init=Copy(width=width))
    student, again = student_of(teacher, settings), student_of(teacher, settings)
    said = say(student)
    assert torch.equal(said, say(again))
    assert torch.isfinite(said).all() and said.shape == (2, 3)
    assert not torch.allclose(said[0], said[1])


def test_slicing_keeps_the_first_channels_of_the_embeddings(teacher: nn.Module) -> None:
    student = student_of(teacher, Shrunk(layers=2, width=12))
    own = student.base_model.embeddings.word_embeddings.weight
    assert torch.equal(own, teacher.base_model.embeddings.word_embeddings.weight[:, :12])


@settings(max_examples=100, deadline=None, derandomize=True)
@given(sizes=st.integers(1, 30).flatmap(lambda total: st.tuples(st.integers(1, total), st.just(total))))
def test_layer_maps_are_distinct_rising_and_inside_the_teacher(sizes: tuple[int, int]) -> None:
    student_layers, teacher_layers = sizes
    for pattern in ("spread", "first", "last"):
        chosen = layer_map(student_layers, teacher_layers, pattern)
        assert len(chosen) == student_layers
        assert chosen == sorted(set(chosen))
        assert chosen[0] >= 0 and chosen[-1] < teacher_layers
    if student_layers > 1:
        spread = layer_map(student_layers, teacher_layers, "spread")
        assert (spread[0], spread[-1]) == (0, teacher_layers - 1)


def test_the_last_of_the_teachers_layers_makes_a_student_of_one_layer() -> None:
    assert layer_map(1, 6, "last") == [5]
    assert layer_map(1, 6, "first") == [0]


def test_principal_directions_are_orthonormal_and_keep_the_most() -> None:
    generator = torch.Generator().manual_seed(2)
    embeddings = torch.randn(200, 8, generator=generator) * torch.tensor([9.0, 1, 1, 5, 1, 1, 1, 0.1])
    directions = principal_directions(embeddings, 2)
    torch.testing.assert_close(directions.T @ directions, torch.eye(2), rtol=0, atol=1e-5)
    kept = (embeddings @ directions).square().sum()
    assert kept >= embeddings[:, [0, 3]].square().sum() * 0.999
    best = torch.linalg.svdvals(embeddings)[:2].square().sum()
    torch.testing.assert_close(kept, best, rtol=1e-4, atol=0)


def test_defaults_halve_the_teacher_and_keep_the_size_of_a_head() -> None:
    config = student_config(BertConfig(**SIZES), Shrunk())
    sizes = (config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.intermediate_size)
    assert sizes == (2, 12, 2, 24)
    assert (config.vocab_size, config.num_labels, config.model_type) == (50, 3, "bert")
    shape = model_shape(config, 10, 5, 3)
    assert (shape.layers, shape.width, shape.heads, shape.intermediate, shape.classes) == (2, 12, 2, 24, 3)


def test_dropout_is_the_teachers_or_that_of_the_recipe() -> None:
    teacher = BertConfig(**SIZES, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.2)
    own = student_config(teacher, Shrunk())
    assert (own.hidden_dropout_prob, own.attention_probs_dropout_prob) == (0.3, 0.2)
    without = student_config(teacher, Shrunk(dropout=0.0))
    assert (without.hidden_dropout_prob, without.attention_probs_dropout_prob) == (0.0, 0.0)
    assert teacher.num_hidden_layers == 4 and teacher.hidden_dropout_prob == 0.3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 5}, r"student\.layers: 5 is more than the teacher's 4"),
        ({"width": 48}, r"student\.width: 48 is more than the teacher's 24"),
        ({"intermediate": 49}, r"student\.intermediate: 49 is more than"),
        ({"width": 13}, r"student\.width 13 does not divide into 2 heads"),
        ({"heads": 5}, r"student\.width 12 does not divide into 5 heads"),
        ({"heads": 3}, r"makes heads of 4, the teacher's have 6, .* or student\.heads to 2\.$"),
        ({"width": 4}, r"makes heads of 4, the teacher's have 6, .* or student\.width to a multiple of 6\.$"),
    ],
)
def test_an_impossible_shape_is_refused_with_the_numbers(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        student_config(BertConfig(**SIZES), Shrunk.model_validate(change))


@pytest.mark.parametrize("size", [0, -1, "0", "3/2", "1/0", "half", "-1/2", 0.5])
def test_a_size_that_is_neither_a_number_nor_a_share_is_refused(size: Any) -> None:
    with pytest.raises(ValidationError):
        Shrunk(layers=size)


def test_a_family_that_cannot_be_shrunk_is_named() -> None:
    with pytest.raises(ModelError, match=r"family 'gpt2' cannot be shrunk yet; known: bert, "):
        student_config(GPT2Config(), Shrunk())


def test_a_parameter_that_the_teacher_has_not_is_named() -> None:
    bert, roberta = teacher_of("bert"), teacher_of("roberta")
    student = TextClassification().new_model(student_config(bert.config, Shrunk()))
    with pytest.raises(ModelError, match=r"student parameter bert\..*: the teacher has no bert\.embeddings"):
        copy_from_teacher(student, roberta, Copy())


DECODERS = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}


def decoder(family: str, **changes: Any) -> Any:
    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 5}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    torch.manual_seed(1)
    return CausalLM().new_model(DECODERS[family](**sizes | changes))


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
        source = re.sub(r"layers\.(\d)", lambda found: f"layers.{2 * int(found[1])}", name)
        assert torch.equal(tensor, theirs[source]), name


@pytest.mark.parametrize("family", DECODERS)
def test_a_decoder_of_the_teachers_size_is_its_exact_copy(family: str) -> None:
    teacher = decoder(family, tie_word_embeddings=True).eval()
    student = CausalLM().new_model(student_config(teacher.config, Shrunk(layers=5, width=16))).eval()
    copy_from_teacher(student, teacher, Copy())
    ids = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(student(input_ids=ids).logits, teacher(input_ids=ids).logits)


def test_the_kinds_of_layers_are_those_of_the_layers_that_are_kept() -> None:
    kinds = ["full_attention", "sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    teacher = decoder("qwen3", layer_types=kinds, use_sliding_window=True, sliding_window=4)
    config = student_config(teacher.config, Shrunk(layers=3, width=16))
    assert config.layer_types == ["full_attention"] * 3


@pytest.mark.parametrize(
    ("settings", "layers", "width", "notes"),
    [
        (Shrunk(layers="1/3", width="1/2"), 1, 12, [r"student\.layers: 1/3 of 4 is 1\.33333; made 1 instead"]),
        (Shrunk(layers="1/8", width="1/2"), 1, 12, [r"student\.layers: 1/8 of 4 is 0\.5; made 1 instead"]),
        (Shrunk(layers="1/2", width="1/3"), 2, 6, [r"student\.width: 1/3 of 24 is 8; made 6 instead"]),
        (Shrunk(layers="1/2", width="1/2"), 2, 12, []),
        (Shrunk(layers=3, width=18), 3, 18, []),
    ],
)
def test_a_share_that_does_not_divide_takes_the_nearest_legal_shape_and_says_so(
    settings: Shrunk, layers: int, width: int, notes: list[str]
) -> None:
    teacher = BertConfig(**SIZES)
    made = student_config(teacher, settings)
    assert (made.num_hidden_layers, made.hidden_size) == (layers, width)
    found = shape_notes(teacher, settings, made)
    assert len(found) == len(notes) and all(re.match(note, each) for note, each in zip(notes, found, strict=True))


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
    assert (config.hidden_size, config.num_attention_heads, config.num_key_value_heads) == (24, 3, 1)
    assert config.head_dim == 8 and config.intermediate_size == 12
    student = CausalLM().new_model(config).eval()
    importance = measure_importance(teacher, batches(), ask_for_hidden_states)
    assert isinstance(settings.init, Copy)
    copy_from_teacher(student, teacher, settings.init, importance)
    assert student.lm_head.weight is student.model.embed_tokens.weight
    with torch.no_grad():
        said = student(input_ids=torch.arange(12)[None]).logits
    assert torch.isfinite(said).all()
    # A group's queries stay with the keys that they were trained for.
    kept = 0 if width != "pruned" else int(importance.heads[0].reshape(2, 3).sum(dim=1).argmax())
    value, theirs = student.model.layers[0].self_attn.v_proj.weight, teacher.model.layers[0].self_attn.v_proj.weight
    query, them = student.model.layers[0].self_attn.q_proj.weight, teacher.model.layers[0].self_attn.q_proj.weight
    if width == "slice":
        assert torch.equal(value, theirs[:8, :24]) and torch.equal(query, them[:24, :24])
    if width == "pruned":
        channels = importance.channels.argsort(descending=True)[:24].sort().values
        assert torch.equal(value, theirs[8 * kept : 8 * kept + 8][:, channels])
        assert torch.equal(query, them[24 * kept : 24 * kept + 24][:, channels])


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


@pytest.mark.parametrize("init", [Copy(width="pruned"), Copy(layers="block_influence")])
def test_an_encoder_of_full_size_is_its_teacher_however_it_is_cut(teacher: nn.Module, init: Copy) -> None:
    importance = measure_importance(teacher, [encoder_batch()], ask_for_logits)
    student = TextClassification().new_model(student_config(teacher.config, Shrunk(layers=4, width=24))).eval()
    copy_from_teacher(student, teacher, init, importance)
    assert torch.equal(say(student), say(teacher))


def encoder_batch() -> Batch:
    nothing = torch.zeros(2, dtype=torch.int64)
    mask = torch.ones(2, dtype=torch.bool)
    return Batch(("a", "b"), {"input_ids": TOKENS, "attention_mask": ATTENTION}, nothing, mask)


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
        assert found.layers[number].item() == pytest.approx(1 - cosine.mean().item(), abs=1e-5)
        out = torch.cat(heads[number]).reshape(-1, 6, 8)
        torch.testing.assert_close(found.heads[number], out.square().mean(dim=(0, 2)).sqrt(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(
            found.units[number], torch.cat(units[number]).square().mean(dim=0).sqrt(), rtol=1e-4, atol=1e-6
        )
    assert not any(module._forward_pre_hooks for module in teacher.modules())


def test_the_layers_with_the_most_influence_are_kept_in_their_order() -> None:
    teacher = decoder("llama", **GROUPED)
    zeros = torch.zeros(5, 1)
    importance = Importance(torch.tensor([0.1, 0.9, 0.2, 0.3, 0.8]), torch.ones(48), zeros, zeros)
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
    ],
)
def test_a_decoder_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        student_config(decoder("llama", **GROUPED).config, Shrunk.model_validate({"layers": 2} | change))
