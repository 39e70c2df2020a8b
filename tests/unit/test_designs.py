"""Students in published shapes."""

from typing import Any, get_args

import pytest
import torch
from transformers import BertConfig, GPT2Config, LlamaConfig, PretrainedConfig, Qwen2Config, RobertaConfig

from potstill.errors import ModelError
from potstill.recipe import Recipe
from potstill.stages.student_search import chosen_student, designed_candidates, shape_of
from potstill.students import Copy, Design, Random, Shrunk, design_note, designed, designs_for, student_config
from potstill.students.designs import DESIGNS, DesignName
from potstill.tasks import CausalLM, TextClassification

LABELS = ["a", "b", "c"]
BASE = BertConfig()
MINILM = BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536)
LARGE: dict[str, Any] = {"num_hidden_layers": 40, "hidden_size": 4096, "intermediate_size": 12288}


def llama(heads: int = 64, key_value_heads: int = 8) -> PretrainedConfig:
    return LlamaConfig(**LARGE, num_attention_heads=heads, num_key_value_heads=key_value_heads, vocab_size=100)


def design(name: str, **settings: Any) -> Design:
    return Design.model_validate({"name": name, **settings})


def recipe(task: str = "text_classification", **changes: Any) -> Recipe:
    data = {"train": "a", "validation": "b", "test": "c"}
    return Recipe.model_validate({"task": {"kind": task}, "data": data, "teacher": {"model": "x"}, **changes})


def test_the_names_are_those_of_the_table() -> None:
    assert get_args(DesignName) == tuple(DESIGNS)
    assert all("arXiv:" in proven.source and proven.width % proven.heads == 0 for proven in DESIGNS.values())


# Millions of parameters as their authors state them, with the vocabulary of 30,522; of minilm-6, all-MiniLM-L6's.
PUBLISHED = {
    "bert-tiny": 4.4,
    "bert-mini": 11.3,
    "bert-small": 29.1,
    "bert-medium": 41.7,
    "tinybert-4": 14.5,
    "tinybert-6": 67.0,
    "distilbert": 66.0,
    "minilm-6": 22.7,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_encoder_has_about_as_many_parameters_as_its_authors_say(name: str) -> None:
    config = student_config(BASE, designed(BASE, design(name)))
    shape = shape_of(recipe(), config, LABELS)
    assert shape.parameters / 1e6 == pytest.approx(PUBLISHED[name], rel=0.02)
    assert shape.family == ("distilbert" if name == "distilbert" else "bert")


# TinyLlama 1.1 B with a vocabulary of 32,000, SmolLM2 135 M and 362 M with 49,152, Qwen2.5 0.49 B with 151,936.
DECODERS = {
    "tinyllama": (32000, False, 1100),
    "smollm2-135m": (49152, True, 134.5),
    "smollm2-360m": (49152, True, 361.8),
    "qwen2.5-0.5b": (151936, True, 494.0),
}


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_has_as_many_parameters_as_its_authors_say(name: str) -> None:
    vocabulary, tied, millions = DECODERS[name]
    made = Qwen2Config if name.startswith("qwen") else LlamaConfig
    teacher = made(**LARGE, num_attention_heads=64, vocab_size=vocabulary, tie_word_embeddings=tied)
    shape = shape_of(recipe("causal_lm"), student_config(teacher, designed(teacher, design(name))), [])
    assert shape.parameters / 1e6 == pytest.approx(millions, rel=0.01)
    proven = DESIGNS[name]
    assert (shape.heads, shape.key_value_width) == (proven.heads, proven.head_size * (proven.key_value_heads or 0))


@pytest.mark.parametrize(
    ("teacher", "name", "copied"),
    [
        (BASE, "bert-tiny", True),
        (BASE, "tinybert-4", False),
        (BASE, "minilm-6", False),
        (MINILM, "minilm-6", True),
        (MINILM, "bert-mini", False),
        (llama(64, 8), "tinyllama", True),
        (llama(64, 64), "tinyllama", False),
        (llama(32, 4), "tinyllama", False),
    ],
)
def test_weights_are_copied_where_the_heads_allow_it(teacher: PretrainedConfig, name: str, copied: bool) -> None:
    made = designed(teacher, design(name, init={"kind": "copy", "layers": "last"}))
    assert made.init == (Copy(layers="last") if copied else Random())
    note = design_note(teacher, design(name))
    assert note is None if copied else note is not None and "its first weights are random" in note
    assert design_note(teacher, design(name, init={"kind": "random"})) is None
    student_config(teacher, made)


def test_other_settings_are_passed_on() -> None:
    made = designed(BASE, design("bert-tiny", dropout=0.2, vocabulary="trimmed"))
    assert made.dropout == 0.2 and made.vocabulary.kind == "trimmed"
    assert designed(RobertaConfig(), design("distilbert")).family is None
    assert chosen_student(recipe(student={"kind": "design", "name": "bert-tiny"}), BASE, LABELS) == designed(
        BASE, design("bert-tiny")
    )


def test_a_design_that_does_not_fit_is_refused_and_those_that_do_are_named() -> None:
    assert designs_for(MINILM) == ["bert-tiny", "bert-mini", "tinybert-4", "minilm-6"]
    with pytest.raises(ModelError, match=r"distilbert is an encoder of 6 x 768 .* Those that fit: bert-tiny, "):
        designed(MINILM, design("distilbert"))
    with pytest.raises(ModelError, match=r"tinyllama is a decoder of 22 x 2048 .* of the family 'bert'"):
        designed(BASE, design("tinyllama"))
    with pytest.raises(ModelError, match=r"Those that fit: none does\."):
        designed(BertConfig(hidden_size=24, num_attention_heads=2), design("bert-tiny"))


def test_heads_other_than_the_teachers_make_a_model_that_runs() -> None:
    sizes: dict[str, Any] = {"hidden_size": 48, "intermediate_size": 64, "num_attention_heads": 6, "vocab_size": 9}
    teacher = LlamaConfig(**sizes, num_key_value_heads=6)
    asked = Shrunk(layers=2, width=32, heads=4, key_value_heads=2, init=Random())
    model = CausalLM().new_model(student_config(teacher, asked))
    assert model.model.layers[0].self_attn.k_proj.weight.shape == (16, 32)
    assert torch.isfinite(model(input_ids=torch.arange(5)[None]).logits).all()


@pytest.mark.parametrize(
    ("teacher", "settings", "message"),
    [
        (llama(), {"heads": 4, "init": {"kind": "copy"}}, "heads other than the teacher's cannot be copied"),
        (llama(), {"heads": 3}, "a multiple of it that divides the width 32"),
        (llama(), {}, "expected student.heads beside it"),
        (BASE, {"heads": 2}, "all heads of a teacher of the family 'bert' have keys of their own"),
    ],
)
def test_heads_that_make_no_model_are_refused(teacher: Any, settings: dict[str, Any], message: str) -> None:
    values = {"layers": 2, "width": 32, "key_value_heads": 2, "init": {"kind": "random"}} | settings
    with pytest.raises(ModelError, match=message):
        student_config(teacher, Shrunk.model_validate(values))


def test_designs_are_among_the_candidates() -> None:
    found = designed_candidates(recipe(), MINILM, LABELS)
    assert [each.design for each in found] == designs_for(MINILM)
    assert found[0].shape.layers == 2 and TextClassification().new_model(found[0].config).config.hidden_size == 128


def test_shapes_whose_heads_share_keys_do_not_fit_a_decoder_of_which_each_has_its_own() -> None:
    assert designs_for(GPT2Config(n_layer=48, n_embd=1600, n_head=25)) == []
    assert "smollm2-360m" in designs_for(LlamaConfig(num_hidden_layers=48, hidden_size=1600, intermediate_size=6400))
