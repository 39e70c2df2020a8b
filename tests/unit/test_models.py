"""The families as they say what they are: every tensor has a role, and a student of full size is its teacher."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, PretrainedConfig, PreTrainedModel

from potstill.errors import ModelError, RecipeError
from potstill.features import capture_features
from potstill.losses.maps import Attention, Relations
from potstill.losses.model_shapes import Shapes
from potstill.models import FAMILIES, Family, Kind, Part, Role, Size, Slot, family_of, is_a, most_tokens
from potstill.models.fitting import require_cuttable, require_fitting
from potstill.recipe import Recipe
from potstill.signals import Read, Signal
from potstill.students import Copy, Importance, Shrunk, copy_from_teacher, model_shape, student_config
from potstill.students.copying import saved_tensors
from potstill.tasks import CausalLM, Seq2Seq, TextClassification, TokenClassification

TASKS: dict[Kind, tuple[Any, ...]] = {
    Kind.ENCODER: (TextClassification(), TokenClassification()),
    Kind.DECODER: (CausalLM(),),
    Kind.ENCODER_DECODER: (Seq2Seq(),),
}
SIZES = {Size.WIDTH: 24, Size.HEADS: 4, Size.INTERMEDIATE: 32, Size.LAYERS: 4, Size.DECODER_LAYERS: 3}
SIZES |= {Size.KEY_VALUE_HEADS: 2, Size.HEAD: 8, Size.EMBEDDING: 24, Size.EXPERTS: 4, Size.DENSE_INTERMEDIATE: 20}
OF_ALL_PARTS: dict[str, dict[str, Any]] = {
    "deberta": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "type_vocab_size": 2},
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["c2p", "p2c"],
        "position_buckets": 4,
        "norm_rel_ebd": "layer_norm",
        "conv_kernel_size": 3,
        "type_vocab_size": 2,
        "attention_head_size": 6,
    },
    "modernbert": {"local_attention": 4, "attention_bias": True, "mlp_bias": True, "norm_bias": True}
    | {"classifier_bias": True},
}
"""What makes a model have all parts that its family can have."""
MODELS = [(family, task) for family in FAMILIES.values() for task in TASKS[family.kind]]


def tiny_config(family: Family, **values: Any) -> PretrainedConfig:
    sizes = family.values({size: value for size, value in SIZES.items() if size in family.sizes})
    if family.experts is not None:
        # With a layer that has none.
        values = {family.experts.used: 2, **family.experts.with_dense_layers([2]), **values}
    values = OF_ALL_PARTS.get(family.name, {}) | values
    usual = {"vocab_size": 40, "pad_token_id": 1, "max_position_embeddings": 30, "num_labels": 3}
    config: PretrainedConfig = CONFIG_MAPPING[family.name](**sizes | usual | values)
    return config


def tiny(family: Family, task: Any, **values: Any) -> PreTrainedModel:
    """A random model, with every tensor that is saved off its starting point, buffers too."""
    torch.manual_seed(5)
    model: PreTrainedModel = task.new_model(tiny_config(family, **values)).eval()
    with torch.no_grad():
        for _, tensor in saved_tensors(model):
            tensor.add_(torch.randn_like(tensor) * 0.1)
    return model


def student_of(teacher: PreTrainedModel, task: Any, **settings: Any) -> PreTrainedModel:
    whole = {"layers": "1/1", "width": "1/1"}
    torch.manual_seed(99)
    made: PreTrainedModel = task.new_model(student_config(teacher.config, Shrunk.model_validate(whole | settings)))
    return made.eval()


def named(given: tuple[Family, Any]) -> str:
    return f"{given[0].name}-{given[1].kind}"


@pytest.mark.parametrize("case", MODELS, ids=named)
def test_every_tensor_has_a_role_and_its_name_again(case: tuple[Family, Any]) -> None:
    family, task = case
    biases: dict[str, Any] = {"attention_bias": True, "mlp_bias": True} if family.kind is Kind.DECODER else {}
    model = tiny(family, task, **biases)
    slots = {}
    for name, tensor in model.state_dict().items():
        slot = family.slot(name)
        assert slot is not None, name
        assert len(slot.role.axes(slot.leaf)) == tensor.dim(), name
        slots[slot] = name
    assert len(slots) == len(model.state_dict())
    for slot, name in slots.items():
        again = family.slot(family.name_of(slot))
        assert again == slot, name
    for part, stack in family.stacks.items():
        layer = model.base_model.get_submodule(stack.layers)[0]
        for path in (stack.attention, stack.attention_out, stack.first_norm):
            assert path is None or layer.get_submodule(path) is not None
        assert part is Part.CROSS or layer.get_submodule(stack.experts or stack.feed_forward_out) is not None


@pytest.mark.parametrize("name", ["x.bert.pooler.dense.weight", "bert.pooler.dense.weight.x", "bert.pooler.dense"])
def test_a_name_that_is_not_whole_has_no_role(name: str) -> None:
    assert FAMILIES["bert"].slot("bert.pooler.dense.weight") == Slot(Role.POOLER, Part.ONLY, None, "weight")
    assert FAMILIES["bert"].slot(name) is None
    for other in ("bert.encoder.layer.0.attention.self.query.bias2", "bert.encoder.layer.a.attention.self.query.bias"):
        assert FAMILIES["bert"].slot(other) is None
    assert FAMILIES["llama"].slot("model.layers.0.mlp.experts.1.up_proj.weight") is None


@pytest.mark.parametrize("case", [case for case in MODELS if case[0].teaches], ids=named)
def test_a_student_of_full_size_is_its_teacher_to_the_bit_in_all_that_is_saved(case: tuple[Family, Any]) -> None:
    family, task = case
    teacher = tiny(family, task)
    student = student_of(teacher, task, **({"decoder_layers": "1/1"} if Part.CROSS in family.stacks else {}))
    copy_from_teacher(student, teacher, Copy())
    theirs = teacher.state_dict()
    assert list(student.state_dict()) == list(theirs)
    for name, tensor in student.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name


def test_buffers_that_are_saved_are_the_teachers_too() -> None:
    teacher = tiny(FAMILIES["bart"], Seq2Seq())
    assert teacher.final_logits_bias.abs().min() > 0
    student = student_of(teacher, Seq2Seq(), layers=2, width=12)
    copy_from_teacher(student, teacher, Copy())
    assert torch.equal(student.final_logits_bias, teacher.final_logits_bias)


@pytest.mark.parametrize("name", ["bert", "llama", "bart"])
@pytest.mark.parametrize("place", ["", "layer"])
def test_a_tensor_of_no_role_is_an_error_that_names_it_in_the_student_and_in_a_layer_that_is_kept(
    name: str, place: str
) -> None:
    family = FAMILIES[name]
    task = TASKS[family.kind][0]
    teacher = tiny(family, task)
    student = student_of(teacher, task, layers=2)

    def add(model: PreTrainedModel, tensor: str, *, persistent: bool = True) -> str:
        path = f"{family.stacks[family.layer_stacks[-1]].layers}.0" if place else ""
        model.base_model.get_submodule(path).register_buffer(tensor, torch.ones(2), persistent=persistent)
        names = [each for each, _ in model.named_buffers() if each.endswith(tensor)]
        assert len(names) == 1
        return names[0]

    add(student, "computed", persistent=False)
    add(teacher, "computed", persistent=False)
    copy_from_teacher(student, teacher, Copy())
    added = add(teacher, "scale_of_layer")
    if place:
        with pytest.raises(ModelError, match=rf"no place for the teacher's {added}, so it would be another model"):
            copy_from_teacher(student, teacher, Copy())
    assert add(student, "scale_of_layer") == added
    with pytest.raises(ModelError, match=rf"student parameter {added}: how to cut it is not known; use init: random"):
        copy_from_teacher(student, teacher, Copy())


def test_a_tensor_of_other_axes_than_its_role_is_refused() -> None:
    teacher = tiny(FAMILIES["bert"], TextClassification())
    student = student_of(teacher, TextClassification())
    teacher.classifier.weight = nn.Parameter(torch.zeros(3, 24, 1))
    with pytest.raises(
        ModelError, match=r"teacher parameter classifier\.weight: it has 3 axes, and a classifier has 2"
    ):
        copy_from_teacher(student, teacher, Copy())


def test_families_that_a_recipe_can_name_are_those_of_one_stack_that_teach() -> None:
    schema = json.dumps(Recipe.model_json_schema())
    known = [name for name, each in FAMILIES.items() if each.teaches and not is_a(Kind.ENCODER_DECODER, name)]
    assert json.dumps(known) in schema
    assert known[:5] == ["bert", "roberta", "xlm-roberta", "camembert", "distilbert"]
    for name in known:
        assert Shrunk.model_validate({"family": name}).family == name


def test_each_family_is_known_by_the_name_that_configurations_have_for_it() -> None:
    for name, family in FAMILIES.items():
        assert family.name == name == CONFIG_MAPPING[name]().model_type
        assert family.layout in FAMILIES and (family.factorised_as or name) in FAMILIES
        if family.teaches:
            require_cuttable(name)
    with pytest.raises(ModelError, match="family 'electra' cannot be shrunk yet"):
        require_fitting("electra", "text_classification")


def test_positions_are_counted_as_each_family_counts_them() -> None:
    most = {name: most_tokens(tiny_config(family)) for name, family in FAMILIES.items()}
    assert {name for name, count in most.items() if count == 28} == {"roberta", "xlm-roberta", "camembert"}
    assert {name for name, count in most.items() if count == 30} == {
        *("bert", "distilbert", "electra", "bart", "marian", "gpt2", "deberta", "deberta-v2")
    }
    for name in ("deberta", "deberta-v2"):
        assert most_tokens(tiny_config(FAMILIES[name], position_biased_input=False)) is None
    assert most_tokens(PretrainedConfig()) is None


def test_a_stack_that_a_family_has_not_is_refused() -> None:
    with pytest.raises(ModelError, match=r"'bert': it has no stack 'cross'; those that it has: only\."):
        FAMILIES["bert"].stack(Part.CROSS)


def test_attention_that_cannot_be_read_is_refused_by_the_losses_and_by_who_reads_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny(FAMILIES["llama"], CausalLM())
    config = tiny_config(FAMILIES["qwen2"])
    student, teacher = (model_shape(each, 1, 1, 0) for each in (config, model.config))
    shapes, within = Shapes(student, teacher), frozenset({Read(Signal.ATTENTION, 1)})
    Attention().build(shapes)
    with capture_features(model, within):
        pass
    capped = replace(FAMILIES["llama"], without_maps="its scores are capped")
    monkeypatch.setitem(FAMILIES, "llama", capped)
    for loss in (Attention(), Relations(heads=4)):
        with pytest.raises(
            RecipeError, match=rf"{loss.kind} reads the attention of the teacher, a llama model, .*capped"
        ):
            loss.build(shapes)
    with pytest.raises(RecipeError, match="attention of the student"):
        Attention().build(Shapes(teacher, student))
    with (
        pytest.raises(ModelError, match="of llama models cannot be read: its scores are capped"),
        capture_features(model, within),
    ):
        pass
    with capture_features(model, frozenset({Read(Signal.HIDDEN_STATES, 1)})):
        pass


def test_what_a_model_multiplies_its_embeddings_by_is_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tied embeddings take the factor, and the norm before the head takes it back."""
    teacher = tiny(FAMILIES["llama"], CausalLM(), tie_word_embeddings=True)
    plain, scaled = (student_of(teacher, CausalLM(), width=12) for _ in range(2))
    copy_from_teacher(plain, teacher, Copy())
    changed = replace(FAMILIES["llama"], embedding_scale=lambda config: config.hidden_size**0.5, norms_around_one=True)
    monkeypatch.setitem(FAMILIES, "llama", changed)
    copy_from_teacher(scaled, teacher, Copy())
    assert family_of(teacher.config) is changed
    embeddings, norm = teacher.model.embed_tokens.weight[:, :12], teacher.model.norm.weight[:12]
    torch.testing.assert_close(scaled.model.embed_tokens.weight, embeddings * 2**0.5)
    torch.testing.assert_close(1 + scaled.model.norm.weight, (1 + norm) / 2**0.5)
    assert torch.equal(plain.model.embed_tokens.weight, embeddings) and torch.equal(plain.model.norm.weight, norm)
    layer, its = scaled.model.layers[0].input_layernorm.weight, teacher.model.layers[0].input_layernorm.weight
    torch.testing.assert_close(layer, its[:12])


def test_a_factor_in_norms_is_of_those_that_are_read_through_and_not_of_those_of_what_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    family = FAMILIES["llama"]
    stack = family.stack(Part.ONLY)
    inside = {**stack.inside, "post_attention_layernorm": Role.ATTENTION_OUT_NORM}
    monkeypatch.setitem(FAMILIES, "llama", replace(family, stacks={Part.ONLY: replace(stack, inside=inside)}))
    teacher = tiny(family, CausalLM())
    student = student_of(teacher, CausalLM(), width=12)
    layers, heads, units = ({Part.ONLY: torch.zeros(*size)} for size in ((4,), (4, 4), (4, 32)))
    importance = Importance(layers, torch.arange(24.0), heads, units)
    copy_from_teacher(student, teacher, Copy(width="pruned"), importance)
    own, its = student.model.layers[0], teacher.model.layers[0]
    torch.testing.assert_close(own.input_layernorm.weight, its.input_layernorm.weight[12:] * 2**0.5)
    torch.testing.assert_close(own.post_attention_layernorm.weight, its.post_attention_layernorm.weight[12:])
    torch.testing.assert_close(student.model.norm.weight, teacher.model.norm.weight[12:] * 2**0.5)
