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
    OPTConfig,
    RobertaConfig,
)
from transformers import RobertaForSequenceClassification as Roberta

from potstill.errors import ModelError
from potstill.signals import Batch
from potstill.students import (
    Copy,
    Random,
    Shrunk,
    copy_from_teacher,
    measure_importance,
    model_shape,
    shape_notes,
    student_config,
)
from potstill.students.copying import layer_map, principal_directions
from potstill.tasks import TextClassification
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
    with pytest.raises(ModelError, match=r"family 'opt' cannot be shrunk yet; known: bart, bert, "):
        student_config(OPTConfig(), Shrunk())


def test_a_parameter_that_the_teacher_has_not_is_named() -> None:
    bert, roberta = teacher_of("bert"), teacher_of("roberta")
    student = TextClassification().new_model(student_config(bert.config, Shrunk()))
    with pytest.raises(ModelError, match=r"student parameter bert\..*: the teacher has no bert\.embeddings"):
        copy_from_teacher(student, roberta, Copy())


@pytest.mark.parametrize(
    ("settings", "layers", "width", "notes"),
    [
        (Shrunk(layers="1/3", width="1/2"), 1, 12, [r"student\.layers: 1/3 of 4 is 1\.33333; made 1 instead"]),
        (Shrunk(layers="1/8", width="1/2"), 1, 12, [r"student\.layers: 1/8 of 4 is 0\.5; made 1 instead"]),
        (Shrunk(layers="1/2", width="1/3"), 2, 6, [r"student\.width: 1/3 of 24 is 8; made 6 instead"]),
        (Shrunk(layers="1/2", width="1/2"), 2, 12, []),
        (
            Shrunk(layers=2, width=12, intermediate="1/7"),
            2,
            12,
            [r"student\.intermediate: 1/7 of 48 is 6\.85714; made 7 instead"],
        ),
        (Shrunk(layers=3, width=18), 3, 18, []),
        (
            Shrunk(layers=3, width=14, init=Random()),
            3,
            14,
            [
                r"student\.heads: 2\.33333 would be in proportion; made 2\.",
                r"student\.heads: 2 of 7 channels are made; the teacher's have 6\.",
            ],
        ),
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
