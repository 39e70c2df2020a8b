"""Students of another family than their teacher's, and DistilBERT in either role."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PretrainedConfig,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from potstill.data.encoded import EncodedRows
from potstill.errors import ModelError
from potstill.features import capture_features
from potstill.models import Size, family_of
from potstill.signals import Batch, Read, Signal
from potstill.students import (
    Copy,
    Random,
    Shrunk,
    copy_from_teacher,
    measure_importance,
    model_shape,
    student_config,
)
from potstill.students.layouts import in_family, laid_out_alike
from potstill.tasks import CausalLM, TextClassification
from potstill.tasks.loading import without_token_types
from potstill.tasks.text_classification import ask_for_logits
from potstill.training.frozen_layers import FrozenLayers
from tests.tiny_decoders import DECODERS
from tests.tiny_decoders import decoder_config as tiny_config

SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 20,
    "num_labels": 3,
}
INPUTS = {
    "input_ids": torch.tensor([[2, 5, 7, 9, 3], [2, 8, 3, 1, 1]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
}


def batch() -> Batch:
    return Batch(("a", "b"), INPUTS, torch.zeros(2, dtype=torch.int64), torch.ones(2, dtype=torch.bool))


def drawn(model: nn.Module, seed: int = 11) -> nn.Module:
    """With weights so large that each of them shows in what the model says."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def bert() -> nn.Module:
    return drawn(BertForSequenceClassification(BertConfig(**SIZES)))


def distilbert() -> nn.Module:
    return drawn(DistilBertForSequenceClassification(in_family(BertConfig(**SIZES), "distilbert")))


def student_of(teacher: nn.Module, **settings: Any) -> nn.Module:
    asked = Shrunk(**{"layers": 4, "width": 24} | settings)
    model = TextClassification().new_model(student_config(teacher.config, asked)).eval()
    if isinstance(asked.init, Copy):
        importance = measure_importance(teacher, [batch()], ask_for_logits) if asked.init.measures else None
        copy_from_teacher(model, teacher, asked.init, importance)
    return model


def states(model: nn.Module) -> torch.Tensor:
    """The last hidden states, of the tokens that are seen."""
    with torch.no_grad():
        last: torch.Tensor = model.base_model(**INPUTS).last_hidden_state
    return last[INPUTS["attention_mask"] > 0]


@pytest.mark.parametrize("init", [Copy(), Copy(layers="last"), Copy(width="project"), Copy(width="pruned")])
def test_a_distilbert_of_all_of_a_berts_layers_has_its_hidden_states(init: Copy) -> None:
    teacher = bert()
    student = student_of(teacher, family="distilbert", init=init)
    assert isinstance(student, DistilBertForSequenceClassification)
    torch.testing.assert_close(states(student), states(teacher), rtol=1e-5, atol=1e-5)
    assert torch.equal(student.pre_classifier.weight, teacher.bert.pooler.dense.weight)
    assert torch.equal(student.classifier.bias, teacher.classifier.bias)


def test_a_bert_of_all_of_a_distilberts_layers_has_its_hidden_states() -> None:
    teacher = distilbert()
    student = student_of(teacher, family="bert")
    torch.testing.assert_close(states(student), states(teacher), rtol=1e-5, atol=1e-5)


def test_a_shallower_distilbert_has_every_other_layer() -> None:
    teacher = bert()
    student = student_of(teacher, family="distilbert", layers=2)
    for own, source in enumerate((0, 3)):
        layer, theirs = student.distilbert.transformer.layer[own], teacher.bert.encoder.layer[source]
        assert torch.equal(layer.attention.k_lin.weight, theirs.attention.self.key.weight)
        assert torch.equal(layer.ffn.lin2.weight, theirs.output.dense.weight)
        assert torch.equal(layer.sa_layer_norm.bias, theirs.attention.output.LayerNorm.bias)


@pytest.mark.parametrize("init", [Copy(), Copy(layers="block_influence"), Copy(width="project"), Copy(width="pruned")])
def test_a_distilbert_of_a_distilbert_is_its_exact_copy(init: Copy) -> None:
    teacher = distilbert()
    student = student_of(teacher, init=init)
    with torch.no_grad():
        assert torch.equal(student(**INPUTS).logits, teacher(**INPUTS).logits)


@pytest.mark.parametrize("make", [bert, distilbert])
def test_a_narrower_distilbert_is_cut_from_either(make: Any) -> None:
    teacher = make()
    student = student_of(teacher, family="distilbert", width="1/2", layers=2, dropout=0.0)
    config = student.config
    assert (config.dim, config.n_heads, config.n_layers, config.hidden_dim) == (12, 2, 2, 24)
    assert (config.dropout, config.attention_dropout) == (0, 0)
    of_student, of_teacher = (model.get_input_embeddings().weight for model in (student, teacher))
    assert torch.equal(of_student, of_teacher[:, :12])


def test_the_features_of_distilbert_are_those_that_transformers_gives() -> None:
    model = distilbert().double()
    reads = [Read(Signal.HIDDEN_STATES, layer) for layer in range(5)] + [Read(Signal.ATTENTION, 2)]
    with torch.no_grad(), capture_features(model, frozenset(reads)) as taken:
        model(**INPUTS)
    found = taken.at(batch().tokens)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        said = model(**INPUTS, output_hidden_states=True, output_attentions=True)
    for read in reads[:-1]:
        expected = said.hidden_states[read.layer][batch().tokens]
        torch.testing.assert_close(found[read], expected, rtol=1e-6, atol=1e-8)
    expected = said.attentions[1].transpose(1, 2)[batch().tokens]
    torch.testing.assert_close(found[reads[-1]].exp(), expected, rtol=1e-6, atol=1e-8)


def rows() -> EncodedRows:
    tokens = [ids[seen > 0].numpy().astype(np.int32) for ids, seen in zip(*INPUTS.values(), strict=True)]
    return EncodedRows(("a", "b"), tokens, np.zeros(2, dtype=np.int64), pad_id=1, truncated=0)


def test_the_lower_layers_of_distilbert_can_be_kept_as_they_are() -> None:
    model = distilbert()
    with torch.no_grad():
        before = model(**INPUTS).logits
    frozen = FrozenLayers(model, 2)
    kept = frozen.keep(rows(), torch.device("cpu"), 2, lambda amount=1, note="": None)
    frozen.detach()
    with torch.no_grad():
        above = model(**kept.collate([0, 1]).inputs).logits
    torch.testing.assert_close(above, before)
    assert len(model.distilbert.transformer.layer) == 2
    frozen.restore()
    with torch.no_grad():
        assert torch.equal(model(**INPUTS).logits, before)


def test_families_that_differ_in_name_alone_are_copied() -> None:
    teacher = drawn(RobertaForSequenceClassification(RobertaConfig(**SIZES)))
    student = student_of(teacher, family="xlm-roberta")
    assert student.config.model_type == "xlm-roberta"
    with torch.no_grad():
        assert torch.equal(student(**INPUTS).logits, teacher(**INPUTS).logits)


ALIKE = ["llama", "mistral", "qwen2", "qwen3"]
"""Decoders whose configurations say the same in the same words."""
OTHERS = [name for name in DECODERS if name not in ALIKE]


def decoder_config(family: str) -> PretrainedConfig:
    sizes = {"hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 3}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "max_position_embeddings": 77}
    rope = {"rope_type": "default", "rope_theta": 12345.0}
    return tiny_config(family, **sizes, rope_parameters=rope, tie_word_embeddings=True, rms_norm_eps=1e-5)


@pytest.mark.parametrize("family", ALIKE)
@pytest.mark.parametrize("teacher", ALIKE)
def test_a_decoder_in_another_family_has_the_same_sizes(teacher: str, family: str) -> None:
    settings = Shrunk(layers=3, width=24, family=family, init=Random())
    config = student_config(decoder_config(teacher), settings)
    assert config.model_type == family
    fields = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "num_hidden_layers")
    fields += ("vocab_size", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings")
    assert all(getattr(config, field) == getattr(decoder_config(teacher), field) for field in fields)
    assert config.rope_parameters["rope_theta"] == 12345.0
    model = CausalLM().new_model(config).eval()
    with torch.no_grad():
        logits = model(input_ids=torch.arange(9)[None]).logits
    assert logits.shape == (1, 9, 40) and torch.isfinite(logits).all()
    assert model.model.layers[0].self_attn.k_proj.weight.shape == (12, 24)


@pytest.mark.parametrize(
    ("teacher", "family"),
    [*((teacher, "llama") for teacher in OTHERS), *(("llama", family) for family in OTHERS), ("gpt2", "qwen2")],
)
def test_a_decoder_in_a_family_of_other_words_has_the_same_sizes(teacher: str, family: str) -> None:
    whole = tiny_config(teacher)
    settings = Shrunk(layers=3, width=16, family=family, init=Random())
    if family == "qwen3_moe":
        with pytest.raises(ModelError, match=r"'qwen3_moe' does not fit a teacher of the family 'llama'; use one of"):
            student_config(whole, settings)
        return
    config = student_config(whole, settings)
    made, its = (model_shape(each, 1, 1, 0) for each in (config, whole))
    names = ("width", "heads", "vocabulary", "query_width")
    assert [getattr(made, name) for name in names] == [getattr(its, name) for name in names]
    # Of experts, the other family has the units of a layer without them.
    units = 20 if teacher == "qwen3_moe" else 24
    assert (config.model_type, made.layers, made.intermediate) == (family, 3, units)
    if "gpt2" not in (teacher, family):
        assert made.key_value_width == its.key_value_width
    # A window that the other family has not is its longest text.
    window = whole.sliding_window if teacher.startswith("gemma") else None
    assert config.max_position_embeddings == (window or whole.max_position_embeddings)
    model = CausalLM().new_model(config).eval()
    with torch.no_grad():
        assert torch.isfinite(model(input_ids=torch.arange(30)[None]).logits).all()


def test_scores_of_a_family_that_has_a_scale_of_its_own_are_scaled_as_others_are() -> None:
    for family in ("gemma2", "gemma3_text", "granite"):
        config = student_config(tiny_config("llama"), Shrunk(layers=3, width=16, family=family, init=Random()))
        attention = CausalLM().new_model(config).model.layers[1].self_attn
        assert attention.scaling == pytest.approx(8**-0.5)
        assert set(getattr(config, "layer_types", ["full_attention"])) == {"full_attention"}


@pytest.mark.parametrize("family", ALIKE)
@pytest.mark.parametrize(("width", "groups"), [(24, 2), (10, 1)])
def test_a_decoder_in_another_family_has_the_teachers_heads(family: str, width: int, groups: int) -> None:
    """Also where heads times their size are not the width, as in Qwen3."""
    teacher = decoder_config("qwen3")
    teacher.head_dim = 16
    settings = Shrunk(layers=3, width=width, family=family, init=Random())
    config = student_config(teacher, settings)
    model = CausalLM().new_model(config).eval()
    attention = model.model.layers[0].self_attn
    assert attention.head_dim == 16 and attention.k_proj.weight.shape == (16 * groups, width)
    with torch.no_grad():
        assert torch.isfinite(model(input_ids=torch.arange(9)[None]).logits).all()


@pytest.mark.parametrize("pair", [("llama", "mistral"), ("mistral", "llama")])
def test_llama_and_mistral_are_copied_into_each_other(pair: tuple[str, str]) -> None:
    teacher = drawn(CausalLM().new_model(decoder_config(pair[0])))
    student = CausalLM().new_model(student_config(teacher.config, Shrunk(layers=3, width=24, family=pair[1]))).eval()
    copy_from_teacher(student, teacher, Copy())
    ids = torch.arange(12)[None]
    with torch.no_grad():
        torch.testing.assert_close(student(input_ids=ids).logits, teacher(input_ids=ids).logits)


def test_biases_that_the_other_family_has_no_place_for_are_not_dropped() -> None:
    config = decoder_config("llama")
    config.attention_bias = True
    teacher = CausalLM().new_model(config)
    student = CausalLM().new_model(student_config(config, Shrunk(layers=3, width=24, family="mistral")))
    with pytest.raises(ModelError, match=r"a mistral model has no place for the teacher's model.layers.0.*bias"):
        copy_from_teacher(student, teacher, Copy())


def test_a_token_that_the_teacher_does_not_name_is_none_in_another_family() -> None:
    made = student_config(BertConfig(**SIZES), Shrunk(layers=2, width=12, family="roberta", init=Random()))
    assert (made.pad_token_id, made.bos_token_id, made.eos_token_id) == (0, None, None)


@pytest.mark.parametrize(
    ("teacher", "settings", "message"),
    [
        (
            BertConfig(**SIZES),
            {"family": "llama"},
            "'llama' does not fit a teacher of the family 'bert'; use one of bert",
        ),
        (decoder_config("qwen2"), {"family": "bert"}, "'bert' does not fit a teacher of the family 'qwen2'"),
        (BertConfig(**SIZES), {"family": "roberta"}, r"cannot start from the weights .*init: \{kind: random\}"),
        (
            decoder_config("qwen2"),
            {"family": "llama"},
            "cannot start from the weights of a teacher of the family 'qwen2'",
        ),
    ],
)
def test_what_does_not_fit_is_refused(teacher: PretrainedConfig, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        student_config(teacher, Shrunk.model_validate({"layers": 2, "width": 24} | settings))


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "camembert", "distilbert", "bert"])
@pytest.mark.parametrize("teacher", [BertConfig(**SIZES), RobertaConfig(**SIZES | {"max_position_embeddings": 22})])
def test_an_encoder_in_another_family_reads_texts_as_long(teacher: PretrainedConfig, family: str) -> None:
    config = student_config(teacher, Shrunk(layers=2, width=12, family=family, init=Random()))
    model = TextClassification().new_model(config).eval()
    ids = torch.full((1, 20), 5)
    with torch.no_grad():
        assert torch.isfinite(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits).all()
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, 21), 5), attention_mask=torch.ones(1, 21))


def test_which_families_are_laid_out_alike() -> None:
    assert laid_out_alike("bert", "distilbert") and laid_out_alike("qwen3", "qwen3")
    assert not laid_out_alike("qwen2", "qwen3") and not laid_out_alike("bert", "roberta")
    for config in (DistilBertConfig(hidden_dim=7), BertConfig(intermediate_size=7)):
        assert family_of(config).size(config, Size.INTERMEDIATE) == 7


def test_a_tokenizer_without_token_types_stays_so_when_it_is_saved(tmp_path: Path) -> None:
    tokenizer = BertTokenizer(vocab={"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "a": 5})
    other = without_token_types(tokenizer)
    other.save_pretrained(tmp_path)
    for each in (other, AutoTokenizer.from_pretrained(tmp_path)):
        assert set(each("a")) == {"input_ids", "attention_mask"}
    assert "token_type_ids" in tokenizer("a")
    distilbert()(**{name: torch.tensor([ids]) for name, ids in other("a")["input_ids"] and other("a").items()})
