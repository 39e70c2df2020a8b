"""Contracts that every loss on features keeps; one that is newly listed fails until it has a reference."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    CamembertConfig,
    ElectraConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
    XLMRobertaConfig,
)

from potstill.errors import ModelError, RecipeError
from potstill.features import capture_features, features_at
from potstill.labels import States
from potstill.losses import Attention, Cosine, HiddenStates, MixedLoss, Relations, Shapes
from potstill.schedules import Constant
from potstill.signals import Batch, Features, Read, Signal, Signals
from potstill.tasks.causal_lm import ask_for_hidden_states
from potstill.tasks.text_classification import ask_for_logits
from potstill.teachers import FrozenTeacher
from tests.contracts.feature_reference import (
    ALIKE,
    ALL,
    FEATURE_LOSSES,
    SHAPES,
    VARIANTS,
    Variant,
    decoder,
    encoder,
    features,
    naive_value,
    rows,
    shape,
)

CPU = torch.device("cpu")
GROUPED = Shapes(student=shape(2, 12, 2, "llama").model_copy(update={"key_value_width": 6}), teacher=shape(4, 12, 3))
EVERY = [variant for variants in VARIANTS.values() for variant in variants]


def built(variant: Variant, seed: int = 5) -> Any:
    torch.manual_seed(seed)
    module = variant.settings.build(variant.shapes).double()
    for parameter in module.parameters():
        # Weights that are not their start: a loss that forgets them would pass with it.
        torch.nn.init.normal_(parameter, std=0.5)
    return module


def summed(variant: Variant, module: Any, student: PreTrainedModel, teacher: Features, batch: Batch) -> Tensor:
    """The loss of a batch as the loop computes it, with the student's features from its forward pass."""
    loss = MixedLoss([module])
    with capture_features(student, loss.student_reads) as taken:
        said = ask_for_logits(student, batch)
    said = replace(said, features=features_at(taken, batch))
    return loss(said, Signals(features=teacher), batch, progress=0.25).total


def gradients(loss: Tensor, model: PreTrainedModel) -> dict[str, Tensor]:
    named = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
    found = torch.autograd.grad(loss, [each for _, each in named], allow_unused=True)
    return {name: grad for (name, _), grad in zip(named, found, strict=True) if grad is not None}


def asked(teacher: PreTrainedModel, module: Any, batch: Batch) -> Features:
    return FrozenTeacher(teacher, CPU, ask_for_logits, module.teacher_reads)(batch).features


def test_every_listed_loss_has_a_reference() -> None:
    assert {loss().kind for loss in FEATURE_LOSSES} == set(VARIANTS)


@pytest.mark.parametrize("variant", ALL)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_value_and_gradient_agree_with_loops_over_plain_numbers(variant: Variant, seed: int) -> None:
    module, tokens = built(variant), 4
    student = features(variant, module.student_reads, "student", tokens, seed)
    teacher = features(variant, module.teacher_reads, "teacher", tokens, seed + 100)
    held = {read: torch.tensor(values, requires_grad=True) for read, values in student.items()}
    value = module.per_token(held, {read: torch.tensor(values) for read, values in teacher.items()})
    assert value.shape == (tokens,)
    step = 1e-30
    for token in range(tokens):
        plain = {read: values[token].astype(complex) for read, values in student.items()}

        def said(read: Read, at: int = token) -> Any:
            return teacher[read][at].tolist()

        def own(read: Read, values: Any = plain) -> Any:
            return values[read].tolist()

        expected = naive_value(variant, module, own, said)
        assert value[token].item() == pytest.approx(expected.real, rel=1e-10, abs=1e-12)
        found = torch.autograd.grad(value[token], list(held.values()), retain_graph=True)
        for (read, _), grad in zip(held.items(), found, strict=True):
            for place in np.ndindex(plain[read].shape):
                # The gradient by complex steps, which lose no digits.
                moved = {key: values.copy() for key, values in plain.items()}
                moved[read][place] += 1j * step
                slope = naive_value(variant, module, lambda key: moved[key].tolist(), said).imag / step  # noqa: B023
                assert grad[token][place].item() == pytest.approx(slope, rel=1e-9, abs=1e-11)


@pytest.mark.parametrize("variant", ALL)
def test_float32_agrees_with_float64(variant: Variant) -> None:
    module = built(variant)
    pairs = [
        {r: torch.tensor(v) for r, v in features(variant, reads, of, 5, seed).items()}
        for of, reads, seed in (("student", module.student_reads, 1), ("teacher", module.teacher_reads, 2))
    ]
    exact = module.per_token(*pairs)
    single = module.float().per_token(*({r: v.float() for r, v in each.items()} for each in pairs))
    torch.testing.assert_close(single.double(), exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("variant", ALL)
def test_a_student_that_says_what_its_teacher_says_has_nothing_to_learn(variant: Variant) -> None:
    alike = replace(variant, shapes=ALIKE)
    settings = variant.settings
    if settings.kind in ("hidden_states", "attention"):
        settings = settings.model_copy(update={"layers": ((1, 1), (3, 3))})
    if settings.kind == "relations":
        settings = settings.model_copy(update={"layers": None})
    if settings.kind == "attention":
        settings = settings.model_copy(update={"heads": "matched"})
    module = settings.build(alike.shapes).double()
    for projection in getattr(module, "projections", ()):
        torch.nn.init.eye_(projection.weight)
    model, batch = encoder(ALIKE.student, 1), rows([5, 3])
    said = asked(encoder(ALIKE.student, 1), module, batch)
    loss = summed(alike, module, model, said, batch)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    for name, grad in gradients(loss, model).items():
        assert grad.abs().max() < 1e-10, name
    shifted = {read: feature.roll(1, dims=0) for read, feature in said.items()}
    assert summed(alike, module, model, shifted, batch).item() > 1e-6


@pytest.mark.parametrize("variant", ALL)
def test_padding_changes_neither_loss_nor_gradient(variant: Variant) -> None:
    module = built(variant)
    student, teacher = encoder(variant.shapes.student, 1), encoder(variant.shapes.teacher, 2)

    def at(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss = summed(variant, module, student, asked(teacher, module, batch), batch)
        return loss.detach(), gradients(loss, student)

    plain, slopes = at(rows([6, 3, 4]))
    assert plain > 1e-4
    for left, right, garbage in ((0, 3, 9), (2, 1, 17), (4, 0, 0)):
        padded, padded_slopes = at(rows([6, 3, 4], left=left, right=right, garbage=garbage))
        torch.testing.assert_close(padded, plain, rtol=1e-11, atol=1e-13)
        for name, slope in slopes.items():
            if "position" in name or "word_embeddings" in name or "token_type" in name:
                continue  # gradients by tables: the padding's own entries are zero, but named by another id
            torch.testing.assert_close(padded_slopes[name], slope, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("variant", ALL)
def test_micro_batches_sum_to_the_whole_batch(variant: Variant) -> None:
    module = built(variant)
    student, teacher = encoder(variant.shapes.student, 1), encoder(variant.shapes.teacher, 2)
    whole = rows([6, 3, 4])
    expected = summed(variant, module, student, asked(teacher, module, whole), whole)
    total = 0.0
    for row, length in enumerate((6, 3, 4)):
        piece = Batch(
            whole.ids[row : row + 1],
            {name: tensor[row : row + 1, :length] for name, tensor in whole.inputs.items()},
            whole.labels[row : row + 1],
            whole.mask[row : row + 1],
        )
        total += summed(variant, module, student, asked(teacher, module, piece), piece).item()
    assert total == pytest.approx(expected.item(), rel=1e-11)


@pytest.mark.parametrize("variant", ALL)
def test_rows_that_do_not_count_add_nothing(variant: Variant) -> None:
    module = built(variant)
    student, teacher = encoder(variant.shapes.student, 1), encoder(variant.shapes.teacher, 2)
    batch = rows([6, 3, 4])
    masked = replace(batch, mask=torch.tensor([True, False, True]))
    values = [
        summed(variant, module, student, asked(teacher, module, each), each).item()
        for each in (masked, *(replace(batch, mask=torch.eye(3, dtype=torch.bool)[row]) for row in (0, 2)))
    ]
    assert values[0] == pytest.approx(values[1] + values[2], rel=1e-11)
    nothing = replace(batch, mask=torch.zeros(3, dtype=torch.bool))
    loss = summed(variant, module, student, asked(teacher, module, nothing), nothing)
    assert loss.item() == 0
    assert all(not grad.any() for grad in gradients(loss, student).values())


def test_each_row_weighs_alike_however_long_it_is() -> None:
    batch = rows([6, 2])
    assert batch.token_weights.sum(dim=1).tolist() == pytest.approx([1, 1])
    assert batch.token_weights[1, :2].tolist() == [0.5, 0.5] and batch.tokens.sum() == 8


@pytest.mark.parametrize(
    ("make", "family", "more"),
    [
        *(
            (encoder, each, {})
            for each in (BertConfig, RobertaConfig, XLMRobertaConfig, CamembertConfig, ElectraConfig)
        ),
        *((decoder, each, {}) for each in (LlamaConfig, Qwen2Config, Qwen3Config)),
        # Layers that see three tokens back.
        (decoder, MistralConfig, {"sliding_window": 3}),
        (decoder, Qwen3Config, {"sliding_window": 3, "use_sliding_window": True, "max_window_layers": 1}),
    ],
)
def test_features_are_those_that_transformers_gives_with_eager_attention(make: Any, family: Any, more: Any) -> None:
    model = make(shape(3, 12, 3), 1, family, **more)
    batch = rows([6, 6]) if make is decoder else rows([6, 4])
    inputs = dict(batch.inputs)
    if make is decoder:
        del inputs["attention_mask"]
        # Two examples in the second row: they do not see each other.
        inputs["position_ids"] = torch.tensor([[0, 1, 2, 3, 4, 5], [0, 1, 2, 0, 1, 2]])
    reads = [Read(Signal.HIDDEN_STATES, layer) for layer in range(4)]
    reads += [Read(Signal.HIDDEN_STATES, 3, normed=True), *(Read(Signal.ATTENTION, layer) for layer in (1, 2, 3))]
    with torch.no_grad(), capture_features(model, frozenset(reads)) as taken:
        model(**inputs, **({"use_cache": False} if make is decoder else {}))
    everything = torch.ones(2, 6, dtype=torch.bool)
    found = taken.at(everything if make is decoder else batch.tokens)
    assert model.config._attn_implementation == "sdpa"
    model.set_attn_implementation("eager")
    with torch.no_grad():
        cached = {"use_cache": False} if make is decoder else {}
        said = model(**inputs, **cached, output_hidden_states=True, output_attentions=True)
    counted = everything if make is decoder else batch.tokens
    for read in reads:
        if read.signal is Signal.ATTENTION:
            expected = said.attentions[read.layer - 1].transpose(1, 2)[counted]
            torch.testing.assert_close(found[read].exp(), expected, rtol=1e-6, atol=1e-7)
        elif make is encoder or read.normed or read.layer < 3:
            # Its eager softmax is in float32, whatever the model is in.
            torch.testing.assert_close(found[read], said.hidden_states[read.layer][counted], rtol=1e-5, atol=1e-5)
        else:
            # transformers gives the last state after the norm; before it, the norm makes that of it.
            assert not torch.allclose(found[read], said.hidden_states[3][counted])
            after = model.model.norm(found[read])
            torch.testing.assert_close(after, said.hidden_states[3][counted], rtol=1e-5, atol=1e-5)


def test_relations_are_those_of_the_definition() -> None:
    model, batch = encoder(shape(2, 12, 3), 1), rows([5, 3])
    heads, size = 4, 3
    with torch.no_grad(), capture_features(model, frozenset({Read(Signal.VALUE_RELATION, 2, heads=heads)})) as taken:
        model(**batch.inputs)
        states = model.bert(**batch.inputs, output_hidden_states=True).hidden_states[1]
        vectors = model.bert.encoder.layer[1].attention.self.value(states)
    (found,) = taken.at(batch.tokens).values()
    token = 0
    for row, length in enumerate((5, 3)):
        for query in range(length):
            for head in range(heads):
                cut = vectors[row, :length, head * size : (head + 1) * size]
                scores = [sum(cut[query] * cut[key]).item() / math.sqrt(size) for key in range(length)]
                expected = [math.exp(score) / sum(map(math.exp, scores)) for score in scores]
                assert found[token, head, :length].exp().tolist() == pytest.approx(expected, rel=1e-6)
                assert not found[token, head, length:].exp().any()
            token += 1


@pytest.mark.parametrize(
    "settings", [HiddenStates(final_norm="before"), HiddenStates(), Attention(), Relations(heads=4)]
)
def test_packed_examples_have_the_loss_of_examples_by_themselves(settings: Any) -> None:
    sizes = Shapes(student=shape(2, 12, 3, "llama"), teacher=shape(4, 12, 3, "llama"))
    torch.manual_seed(3)
    loss = MixedLoss([settings.build(sizes).double()])
    student, teacher = decoder(sizes.student, 1), decoder(sizes.teacher, 2)

    def of(positions: list[list[int]], mask: list[list[bool]], ids: Tensor) -> float:
        batch = Batch(
            ("a",),
            {"input_ids": ids, "position_ids": torch.tensor(positions)},
            torch.zeros_like(ids),
            torch.tensor(mask),
        )
        said = FrozenTeacher(teacher, CPU, ask_for_hidden_states, loss.teacher_reads)(batch)
        with capture_features(student, loss.student_reads) as taken:
            hidden = ask_for_hidden_states(student, batch)
        hidden = replace(hidden, features=features_at(taken, batch))
        return loss(hidden, said, batch, progress=0.0).total.item()

    first, second = torch.tensor([[3, 9, 1, 7]]), torch.tensor([[8, 2, 5]])
    masks = [[False, True, True, False]], [[True, True, False]]
    apart = of([[0, 1, 2, 3]], masks[0], first) + of([[0, 1, 2]], masks[1], second)
    together = of([[0, 1, 2, 3, 0, 1, 2]], [masks[0][0] + masks[1][0]], torch.cat([first, second], dim=1))
    assert together == pytest.approx(apart, rel=1e-9) and apart > 1e-5


def test_stored_states_are_those_of_the_teacher_to_three_digits() -> None:
    module = HiddenStates().build(SHAPES)
    said = asked(encoder(SHAPES.teacher, 2), module, rows([5, 3]))
    encoding = States.of(module.teacher_reads, SHAPES.teacher.width)
    columns = encoding.encode(said)
    assert set(columns) == {"layer_2", "layer_4"} == set(encoding.columns)
    for read, feature in encoding.decode(columns, CPU).items():
        torch.testing.assert_close(feature.double(), said[read], rtol=2**-10, atol=1e-6)


def test_a_forward_pass_that_fails_leaves_nothing_on_the_model() -> None:
    model = encoder(SHAPES.student, 1)
    reads = frozenset({Read(Signal.ATTENTION, 1), Read(Signal.HIDDEN_STATES, 1)})
    with pytest.raises(ZeroDivisionError), capture_features(model, reads):
        raise ZeroDivisionError
    assert model.config._attn_implementation == "sdpa"
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("settings", "shapes", "said"),
    [
        (HiddenStates(projection="none"), SHAPES, "8 wide with a teacher 12 wide without a projection"),
        (Cosine(), SHAPES, "Set its projection to learned"),
        (HiddenStates(layers=((1, 5),)), SHAPES, r"pairs \[1, 5\], and the teacher has layers 0 to 4"),
        (HiddenStates(layers=((3, 1),)), SHAPES, r"the student has layers 0 to 2"),
        (Attention(layers=((0, 1),)), SHAPES, "the student has layers 1 to 2"),
        (Attention(heads="matched"), SHAPES, "the student has 2 heads, the teacher 3"),
        (Relations(heads=4, layers=(1, 9)), SHAPES, "the teacher has layers 1 to 4"),
        (Relations(heads=8), SHAPES, "the teacher's 12 channels of queries cannot be cut into 8"),
        (Relations(heads=4, of=("key",)), GROUPED, "the student's 6 channels of keys cannot be cut into 4"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_training(settings: Any, shapes: Shapes, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        settings.build(shapes)


def test_relation_heads_that_do_not_divide_the_channels_are_refused() -> None:
    model = encoder(SHAPES.student, 1)
    reads = frozenset({Read(Signal.KEY_RELATION, 1, heads=5)})
    with pytest.raises(ModelError, match="8 channels that cannot be cut into 5"), capture_features(model, reads):
        model(**rows([4]).inputs)


def test_a_family_whose_layers_are_not_known_is_refused() -> None:
    unknown = Shapes(student=shape(2, 8, 2, "mamba"), teacher=shape(4, 12, 3, "mamba"))
    with pytest.raises(ModelError, match="model family 'mamba'"):
        HiddenStates().build(unknown)


@pytest.mark.parametrize("variant", ALL)
def test_a_student_of_the_teachers_shape_is_driven_to_the_teacher(variant: Variant) -> None:
    """Every loss can be learnt: a wrong sign, a cut gradient or a mask over everything would show."""
    settings = variant.settings.model_copy(update={"weight": Constant(value=1.0)})
    if settings.kind in ("hidden_states", "attention") and not isinstance(settings.layers, str):
        settings = settings.model_copy(update={"layers": "uniform"})
    torch.manual_seed(1)
    loss = MixedLoss([settings.build(ALIKE).double()])
    student, teacher, batch = encoder(ALIKE.student, 1), encoder(ALIKE.teacher, 2), rows([6, 3, 4])
    said = FrozenTeacher(teacher, CPU, ask_for_logits, loss.teacher_reads)(batch)
    trained = [*student.parameters(), *loss.parameters()]
    optimiser = torch.optim.Adam(trained, lr=1e-2)
    values = []
    for _ in range(300):
        with capture_features(student, loss.student_reads) as taken:
            own = ask_for_logits(student, batch)
        total = loss(replace(own, features=features_at(taken, batch)), said, batch, progress=0.0).total
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        values.append(total.item())
    assert values[-1] < 0.1 * values[0]
