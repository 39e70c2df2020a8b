"""Students of ModernBERT and DeBERTa: exact at full size, legal when cut, and refused where they cannot be."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import DebertaV2Config, PretrainedConfig, PreTrainedModel

from potstill.data.encoded import EncodedRows
from potstill.errors import ModelError
from potstill.features import capture_features, features_at
from potstill.losses import Attention, MixedLoss, Relations, Shapes
from potstill.models import FAMILIES, Size, family_of, final_norm_of
from potstill.signals import Batch, Read, Signal
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
from potstill.students.layouts import in_family
from potstill.tasks import TextClassification, TokenClassification
from potstill.tasks.text_classification import ask_for_logits
from potstill.teachers import FrozenTeacher
from potstill.training.frozen_layers import FrozenLayers
from tests.unit.test_models import tiny, tiny_config

INPUTS = {
    "input_ids": torch.tensor([[2, 5, 7, 9, 3, 4, 8, 6, 20, 21, 3], [2, 8, 7, 30, 12, 9, 3, 1, 1, 1, 1]]),
    "attention_mask": torch.tensor([[1] * 11, [1] * 7 + [0] * 4]),
}
BATCH = Batch(("a", "b"), INPUTS, torch.zeros(2, dtype=torch.int64), torch.ones(2, dtype=torch.bool))
RELATIVE = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "modernbert": ("modernbert", {}),
    "modernbert, means": ("modernbert", {"classifier_pooling": "mean", "attention_bias": False, "norm_bias": False}),
    "deberta": ("deberta", {}),
    "deberta, as published": ("deberta", {**RELATIVE, "type_vocab_size": 0, "max_relative_positions": 30}),
    "deberta-v2": ("deberta-v2", {}),
    "deberta, version 3": ("deberta-v2", {**RELATIVE, "share_att_key": True, "conv_kernel_size": 0}),
    "deberta, of few places": ("deberta-v2", {**RELATIVE, "position_buckets": -1, "max_relative_positions": 3}),
    "deberta, from content alone": ("deberta-v2", {**RELATIVE, "pos_att_type": ["c2p"], "norm_rel_ebd": "none"}),
    "deberta, absolute": ("deberta-v2", {"relative_attention": False, "pos_att_type": None, "norm_rel_ebd": "none"}),
}
TASKS = (TextClassification(), TokenClassification())
WIDTHS: tuple[Any, ...] = ("slice", "project", "pruned")


def teacher_of(form: str, task: Any = TASKS[0]) -> PreTrainedModel:
    name, values = FORMS[form]
    return tiny(FAMILIES[name], task, **values)


def student_of(teacher: PreTrainedModel, task: Any, **settings: Any) -> PreTrainedModel:
    asked = Shrunk.model_validate(settings)
    torch.manual_seed(99)
    student: PreTrainedModel = task.new_model(student_config(teacher.config, asked)).eval()
    if isinstance(asked.init, Copy):
        importance = measure_importance(teacher, [BATCH], ask_for_logits) if asked.init.measures else None
        copy_from_teacher(student, teacher, asked.init, importance)
    return student


def say(model: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(**INPUTS).logits
    return logits


def loaded(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The model out of a folder, which must fill it to the last tensor."""
    model.save_pretrained(folder)
    again, info = type(model).from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    again.eval()
    assert isinstance(again, PreTrainedModel)
    return again


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
@pytest.mark.parametrize("form", FORMS)
def test_a_copy_in_the_teachers_own_shape_says_what_its_teacher_says(form: str, task: Any, tmp_path: Path) -> None:
    teacher = teacher_of(form, task)
    for width in WIDTHS:
        student = student_of(teacher, task, layers="1/1", width="1/1", init=Copy(width=width))
        assert torch.equal(say(student), say(teacher))
    assert torch.equal(say(loaded(student, tmp_path)), say(teacher))
    other = student_of(teacher, task, layers="1/1", width="1/1", init=Random())
    assert not torch.allclose(say(other), say(teacher), atol=1e-2)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("form", FORMS)
def test_a_smaller_student_is_a_legal_model_that_listens_to_its_text(form: str, width: Any, tmp_path: Path) -> None:
    teacher = teacher_of(form)
    student = student_of(teacher, TASKS[0], layers=2, width="1/2", intermediate=20, init=Copy(width=width))
    config = student.config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (2, 12, 2)
    assert config.intermediate_size == 20
    said = say(student)
    assert torch.isfinite(said).all() and not torch.allclose(said[0], said[1], atol=1e-4)
    assert torch.equal(said, say(loaded(student, tmp_path)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("change", [{"heads": 2}, {"heads": 6}])
def test_random_weights_may_have_other_heads(form: str, change: dict[str, Any]) -> None:
    student = student_of(teacher_of(form), TASKS[0], layers=1, width=12, init=Random(), **change)
    assert student.config.num_attention_heads == change["heads"]
    assert torch.isfinite(say(student)).all()


def test_the_first_heads_of_a_matrix_for_queries_keys_and_values_are_those_of_each() -> None:
    """ModernBERT has all queries first, DeBERTa all that is of the first head."""
    gain = math.sqrt(2)
    teacher = teacher_of("modernbert")
    student = student_of(teacher, TASKS[0], layers=4, width=12, intermediate=8)
    own, its = student.model.layers[1], teacher.model.layers[1]
    blocks = its.attn.Wqkv.weight.reshape(3, 4, 6, 24)[:, :2, :, :12].reshape(36, 12)
    torch.testing.assert_close(own.attn.Wqkv.weight, blocks * gain)
    torch.testing.assert_close(own.attn.Wqkv.bias, its.attn.Wqkv.bias.reshape(3, 4, 6)[:, :2].reshape(36))
    units = its.mlp.Wi.weight.reshape(2, 32, 24)[:, :8, :12].reshape(16, 12)
    torch.testing.assert_close(own.mlp.Wi.weight, units * gain)
    torch.testing.assert_close(own.mlp.Wo.weight, its.mlp.Wo.weight[:12, :8])
    torch.testing.assert_close(student.head.norm.weight, teacher.head.norm.weight[:12])
    torch.testing.assert_close(student.head.dense.weight, teacher.head.dense.weight[:12, :12] * gain)
    older = teacher_of("deberta")
    cut = student_of(older, TASKS[0], layers=4, width=12)
    mine, theirs = (model.deberta.encoder.layer[1].attention.self for model in (cut, older))
    heads = theirs.in_proj.weight.reshape(4, 3, 6, 24)[:2, :, :, :12].reshape(36, 12)
    torch.testing.assert_close(mine.in_proj.weight, heads * gain)
    torch.testing.assert_close(mine.q_bias, theirs.q_bias[:12])
    torch.testing.assert_close(mine.v_bias, theirs.v_bias[:12])
    torch.testing.assert_close(mine.pos_proj.weight, theirs.pos_proj.weight[:12, :12] * gain)


@pytest.mark.parametrize("form", ["modernbert", "deberta", "deberta-v2"])
def test_the_most_important_heads_and_channels_are_kept_whole(form: str) -> None:
    """Here the second and the fourth head, and the last channels."""
    teacher = teacher_of(form)
    family = FAMILIES[teacher.config.model_type]
    stack = next(iter(family.stacks.values()))
    kept = torch.cat([torch.arange(6, 12), torch.arange(18, 24)])
    found = measure_importance(teacher, [BATCH], ask_for_logits)
    for heads in found.heads.values():
        heads[:, [0, 2]], heads[:, [1, 3]] = 0.0, 1.0
    found.channels[:] = torch.arange(24.0)
    student = TASKS[0].new_model(student_config(teacher.config, Shrunk(layers=4, width=12))).eval()
    copy_from_teacher(student, teacher, Copy(width="pruned"), found)
    name = f"{family.stacks[family.layer_stacks[0]].layers}.1.{stack.attention_out}.weight"
    mine, theirs = student.base_model.get_parameter(name), teacher.base_model.get_parameter(name)
    torch.testing.assert_close(mine, theirs[12:][:, kept])


def test_a_convolution_is_cut_along_what_it_reads_and_what_it_writes() -> None:
    teacher = teacher_of("deberta-v2")
    for width in WIDTHS[:2]:
        student = student_of(teacher, TASKS[0], layers=2, width=12, init=Copy(width=width))
        own, its = student.deberta.encoder, teacher.deberta.encoder
        basis = torch.eye(24)[:, :12] if width == "slice" else None
        if basis is None:
            # The basis can be read off what is cut by it alone: embeddings of fewer channels.
            words = teacher.deberta.embeddings.word_embeddings.weight
            basis = torch.linalg.lstsq(words, student.deberta.embeddings.word_embeddings.weight).solution
        expected = torch.einsum("os,oik,it->stk", basis, its.conv.conv.weight, basis) * math.sqrt(2)
        torch.testing.assert_close(own.conv.conv.weight, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(own.conv.conv.bias, its.conv.conv.bias @ basis, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(own.rel_embeddings.weight, its.rel_embeddings.weight @ basis, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "kinds"),
    [
        ({"layers": 3}, "full sliding full"),
        ({"layers": 3, "init": Copy(layers="first")}, "full sliding sliding"),
        ({"layers": 1}, "full"),
        ({"layers": 4, "init": Copy(layers="block_influence")}, "full sliding sliding full"),
        ({"layers": 3, "init": Random()}, "full sliding full"),
    ],
)
def test_layers_keep_the_kind_that_they_have_in_the_teacher(settings: dict[str, Any], kinds: str) -> None:
    teacher = teacher_of("modernbert")
    assert [kind.split("_")[0] for kind in teacher.config.layer_types] == ["full", "sliding", "sliding", "full"]
    student = student_of(teacher, TASKS[0], width="1/1", **settings)
    assert [layer.attention_type.split("_")[0] for layer in student.model.layers] == kinds.split()
    assert torch.isfinite(say(student)).all()
    notes = shape_notes(teacher.config, Shrunk.model_validate({"width": "1/1"} | settings), student.config)
    assert not any("window" in note for note in notes)


def refused(config: PretrainedConfig, **settings: Any) -> str:
    with pytest.raises(ModelError) as error:
        student_config(config, Shrunk.model_validate(settings))
    return str(error.value)


def test_what_cannot_be_cut_is_refused_in_a_sentence() -> None:
    modern, newer, older = (tiny_config(FAMILIES[name]) for name in ("modernbert", "deberta-v2", "deberta"))
    for layers in ("last", "block_influence"):
        assert (
            f"{layers} can leave out the first layer of a modernbert, which alone reads the stream without"
            in refused(modern, layers=2, init={"kind": "copy", "layers": layers})
        )
    assert "heads of 3 channels, and rotary positions turn channels in pairs" in refused(
        modern, width=12, heads=4, init={"kind": "random"}
    )
    for config, change, why in (
        (newer, {"embedding_size": 8}, "factorised"),
        (newer, {"conv_groups": 2}, "in groups"),
        (older, {"talking_head": True}, "mixed"),
    ):
        changed = type(config).from_dict(config.to_dict() | change)
        assert f"no student can be cut of this {config.model_type} model: its" in (said := refused(changed))
        assert why in said
    assert "factorised embeddings are made for students in the shape of BERT" in refused(
        newer, vocabulary={"kind": "factorised", "size": 4}
    )


@pytest.mark.parametrize("family", ["modernbert", "deberta", "deberta-v2"])
@pytest.mark.parametrize("teacher", ["bert", "roberta", "distilbert", "modernbert", "deberta-v2"])
def test_an_encoder_of_another_family_is_drawn_in_the_teachers_sizes(teacher: str, family: str) -> None:
    source = tiny_config(FAMILIES[teacher])
    made = in_family(source, family)
    assert made.model_type == family and made.vocab_size == 40 and made.max_position_embeddings >= 28
    for size in (Size.LAYERS, Size.WIDTH, Size.HEADS, Size.INTERMEDIATE):
        assert family_of(made).size(made, size) == family_of(source).size(source, size)
    student = student_of(tiny(FAMILIES[teacher], TASKS[0]), TASKS[0], family=family, layers=2, width=12, init=Random())
    assert torch.isfinite(say(student)).all()
    if family != "modernbert" and teacher != family:
        assert student.deberta.encoder.rel_embeddings.weight.shape[1] == 12
        assert student.deberta.embeddings.position_embeddings is None
    if isinstance(made, DebertaV2Config):
        assert made.pooler_hidden_size == made.hidden_size


@pytest.mark.parametrize("form", FORMS)
def test_features_are_those_that_transformers_gives_with_eager_attention(form: str) -> None:
    """Of a layer with a convolution beside it, what both give; of a window, what its tokens see."""
    model = teacher_of(form)
    final_norm = final_norm_of(model) is not None
    reads = [Read(Signal.HIDDEN_STATES, layer, normed=final_norm and layer == 4) for layer in range(5)]
    reads += [Read(Signal.ATTENTION, layer) for layer in (1, 2, 3, 4)]
    with torch.no_grad(), capture_features(model, frozenset(reads)) as taken:
        model(**INPUTS)
    found = taken.at(BATCH.tokens)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        said = model(**INPUTS, output_hidden_states=True, output_attentions=True)
    for read in reads:
        if read.signal is Signal.ATTENTION:
            expected = said.attentions[read.layer - 1].transpose(1, 2)[BATCH.tokens]
            torch.testing.assert_close(found[read].exp(), expected, rtol=1e-4, atol=1e-5)
        else:
            torch.testing.assert_close(found[read], said.hidden_states[read.layer][BATCH.tokens], rtol=1e-4, atol=1e-4)
    if form == "modernbert":
        token = found[Read(Signal.ATTENTION, 2)].exp()[0]
        assert (token[:, :3] > 0).all() and not token[:, 3:].any()


@pytest.mark.parametrize("form", ["deberta", "deberta-v2", "deberta, version 3"])
def test_relations_of_attention_that_no_function_computes_are_those_of_the_definition(form: str) -> None:
    model = teacher_of(form)
    signals = (Signal.QUERY_RELATION, Signal.KEY_RELATION, Signal.VALUE_RELATION)
    reads = [Read(signal, 2, heads=3) for signal in signals]
    model.train()
    with torch.no_grad(), capture_features(model, frozenset(reads)) as taken:
        # Where they are trained: dropout changes the states that layer 2 is given, and not what is read of them.
        states: list[Tensor] = []
        attention = model.deberta.encoder.layer[1].attention.self
        attention.register_forward_pre_hook(lambda module, given: states.append(given[0]))
        model(**INPUTS)
        if hasattr(attention, "in_proj"):
            weight, nothing = attention.in_proj.weight.reshape(4, 3, 6, 24), torch.zeros(24)
            biases = (attention.q_bias, nothing, attention.v_bias)
            vectors = [states[0] @ weight[:, at].reshape(24, 24).T + bias for at, bias in enumerate(biases)]
        else:
            vectors = [getattr(attention, f"{each}_proj")(states[0]) for each in ("query", "key", "value")]
    found = taken.at(BATCH.tokens)
    for read, each in zip(reads, vectors, strict=True):
        token = 0
        for row, length in enumerate((11, 7)):
            cut = each[row, :length].reshape(length, 3, 8).transpose(0, 1)
            expected = (cut @ cut.transpose(1, 2) / 8**0.5).softmax(dim=-1).transpose(0, 1)
            own = found[read][token : token + length].exp()
            torch.testing.assert_close(own[:, :, :length], expected, rtol=1e-4, atol=1e-5)
            assert not own[:, :, length:].any()
            token += length


@pytest.mark.parametrize("form", ["deberta", "deberta-v2", "modernbert"])
def test_losses_on_maps_can_be_learnt(form: str) -> None:
    """Two models of the same form, one of which is driven to the maps of the other."""
    teacher, student = teacher_of(form), teacher_of(form)
    for seed, model in enumerate((teacher, student)):
        torch.manual_seed(seed)
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    shapes = Shapes(*(model_shape(each.config, 1, 1, 3) for each in (student, teacher)))
    loss = MixedLoss([Attention().build(shapes), Relations(heads=4).build(shapes)])
    said = FrozenTeacher(teacher, torch.device("cpu"), ask_for_logits, loss.teacher_reads)(BATCH)
    optimiser = torch.optim.Adam(student.parameters(), lr=1e-2)
    values = []
    for _ in range(40):
        with capture_features(student, loss.student_reads) as taken:
            own = ask_for_logits(student, BATCH)
        total = loss(replace(own, features=features_at(taken, BATCH)), said, BATCH, progress=0.0).total
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        values.append(total.item())
    assert values[-1] < 0.3 * values[0] and values[0] > 1e-3


@pytest.mark.parametrize("form", FORMS)
def test_lower_layers_are_kept_as_what_they_compute(form: str) -> None:
    """And what all layers read, such as embeddings of relative positions, is not trained with those above."""
    model = teacher_of(form)
    tokens = [ids[seen > 0].numpy().astype(np.int32) for ids, seen in zip(*INPUTS.values(), strict=True)]
    rows = EncodedRows(("a", "b"), tokens, np.zeros(2, dtype=np.int64), pad_id=1, truncated=0)
    before = say(model)
    read_by_all = {name: each for name, each in model.named_parameters() if "rel_" in name or "encoder.L" in name}
    as_they_were = {name: each.detach().clone() for name, each in read_by_all.items()}
    frozen = FrozenLayers(model, 2)
    kept = frozen.keep(rows, torch.device("cpu"), 2, lambda amount=1, note="": None)
    assert torch.equal(say(model), before)
    frozen.detach()
    inputs = kept.collate([0, 1]).inputs
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, before, rtol=1e-4, atol=1e-4)
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    step = torch.optim.SGD(trained, lr=0.1)
    model(**inputs).logits.square().sum().backward()
    step.step()
    model.eval()
    with torch.no_grad():
        after = model(**inputs).logits
    assert not torch.allclose(after, before, atol=1e-3)
    frozen.restore()
    assert all(torch.equal(each, as_they_were[name]) for name, each in read_by_all.items())
    torch.testing.assert_close(say(model), after, rtol=1e-4, atol=1e-4)
    assert all(parameter.requires_grad for parameter in model.parameters())
