"""A model of which a checkpoint does not fill every weight is refused, both from its headers and when it is loaded."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaModel,
    T5ForConditionalGeneration,
)

from potstill.errors import ModelError
from potstill.tasks import AnyTask, CausalLM, Seq2Seq, TextClassification, TokenClassification
from potstill.tasks.weights import Filled, check_weights
from tests import bad_models as bad
from tests.pair_models import pair_model

SIZES: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
}
LABELS = ["a", "b", "c"]


def bert(**more: Any) -> PreTrainedModel:
    return BertForSequenceClassification(BertConfig(**SIZES, **more))


def llama(**more: Any) -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**SIZES | {"num_key_value_heads": 1, "pad_token_id": 0} | more))


def saved(model: PreTrainedModel, folder: Path, *damages: bad.Damage) -> Path:
    model.save_pretrained(folder)
    for damage in damages:
        damage(folder)
    return folder


def compared(task: AnyTask, folder: Path, *, adapt: bool = False) -> Filled:
    """Judged from the headers, which must say what loading says."""
    config = task.load_config(str(folder))
    messages = []
    found = None
    for judge in (
        lambda: check_weights(task.new_model, config, str(folder), new_head=adapt),
        lambda: task.load_model(str(folder), LABELS if adapt else None),
    ):
        try:
            got = judge()
            found = got if isinstance(got, Filled) else found
        except ModelError as error:
            messages.append(str(error))
    if messages:
        assert len(messages) == 2, f"headers and loading do not agree: {messages}"
        if adapt:
            raise ModelError(messages[0])
        assert messages[0] == messages[1]
        raise ModelError(messages[0])
    assert found is not None
    return found


TEXT, TAGS, NEXT, PAIRS = TextClassification(), TokenClassification(), CausalLM(), Seq2Seq()


@pytest.mark.parametrize(
    ("task", "make", "damages", "adapt", "message"),
    [
        (TEXT, bert, [bad.renamed(lambda name: f"_orig_mod.{name}")], False, "names have '_orig_mod.' in them"),
        (TEXT, bert, [bad.renamed(lambda name: f"module.{name}")], True, "names have 'module.' in them.*save_file"),
        (TEXT, bert, [bad.renamed(lambda name: f"module._orig_mod.{name}")], True, "weights are missing"),
        (TEXT, bert, [bad.renamed(lambda name: f"model.{name}")], False, "names have 'model.' in them"),
        (
            TEXT,
            bert,
            [bad.renamed(lambda name: name.replace("layer.", "layer._checkpoint_wrapped_module."))],
            False,
            "w",
        ),
        (NEXT, llama, [bad.renamed(lambda name: f"_orig_mod.{name}")], False, "names have '_orig_mod.' in them"),
        (NEXT, llama, [bad.renamed(lambda name: f"base_model.model.{name}")], False, r"merge_and_unload\(\) of PEFT"),
        (
            NEXT,
            llama,
            [bad.with_weights(lambda weights: weights | {"model.layers.0.mlp.up_proj.lora_A.x": torch.zeros(2)})],
            False,
            "1 have no place in it .*lora_A.*save it again after model.merge_and_unload",
        ),
        (
            NEXT,
            llama,
            [bad.with_weights(lambda weights: {n: w for n, w in weights.items() if n != "lm_head.weight"})],
            False,
            r"1 of \d+ weights are missing \(lm_head.weight\).*tie_word_embeddings is false. Set it to true",
        ),
        # Layers too many, too few, biases, widths.
        (NEXT, llama, [bad.with_config(num_hidden_layers=2)], False, "9 have no place in it"),
        (NEXT, llama, [bad.with_config(num_hidden_layers=5)], False, r"18 of \d+ weights are missing \(first"),
        (TEXT, bert, [bad.with_config(num_hidden_layers=2)], True, "16 have no place in it"),
        (TEXT, bert, [bad.with_config(intermediate_size=20)], True, r"9 have another shape \(first .*: \[24\] inst"),
        (
            NEXT,
            lambda: llama(attention_bias=True),
            [bad.with_config(attention_bias=False)],
            False,
            r"12 have no place in it \(first model.layers.0.self_attn.k_proj.bias",
        ),
        # Heads.
        (TEXT, lambda: BertModel(BertConfig(**SIZES)), [], False, "no head for this task: add an adapt section"),
        (TAGS, lambda: BertModel(BertConfig(**SIZES)), [], False, "no head for this task: add an adapt section"),
        (TEXT, lambda: RobertaModel(RobertaConfig(**SIZES)), [], False, "no head for this task: add an adapt section"),
        (TEXT, lambda: BertForMaskedLM(BertConfig(**SIZES)), [], False, "no head for this task: add an adapt section"),
        (
            TEXT,
            bert,
            [bad.with_config(id2label={str(n): str(n) for n in range(5)})],
            False,
            r"classifier.bias: \[2\] i",
        ),
        (PAIRS, lambda: pair_model("t5", 3), [bad.with_config(num_layers=5)], False, "weights are missing"),
        (PAIRS, lambda: pair_model("bart", 3), [bad.with_config(decoder_layers=2)], False, "have no place in it"),
    ],
)
def test_a_checkpoint_that_does_not_fill_its_model(
    task: AnyTask, make: Any, damages: list[bad.Damage], adapt: bool, message: str, tmp_path: Path
) -> None:
    folder = saved(make(), tmp_path / "model", *damages)
    with pytest.raises(ModelError, match=f"^{folder}: its weights are not those of the .*{message}"):
        compared(task, folder, adapt=adapt)


def with_versions(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return weights | {f"model.{stack}.version": torch.ones(1) for stack in ("encoder", "decoder")}


def legacy(name: str) -> str:
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


@pytest.mark.parametrize(
    ("task", "make", "damages", "adapt"),
    [
        (TEXT, bert, [], False),
        (TEXT, bert, [bad.in_shards()], False),
        (TEXT, bert, [bad.renamed(legacy)], False),
        (
            TEXT,
            bert,
            [bad.with_weights(lambda weights: weights | {"bert.embeddings.position_ids": torch.arange(32)[None]})],
            False,
        ),
        (TEXT, lambda: DistilBertForSequenceClassification(DistilBertConfig(dim=16, n_heads=2, n_layers=2)), [], False),
        (NEXT, lambda: llama(tie_word_embeddings=True), [], False),
        (NEXT, llama, [], False),
        (NEXT, lambda: llama(attention_bias=True), [], False),
        (PAIRS, lambda: pair_model("t5", 3), [], False),
        (PAIRS, lambda: T5ForConditionalGeneration(pair_model("t5", 3).config), [], False),
        (PAIRS, lambda: pair_model("t5", 3, tie_word_embeddings=False), [], False),
        (PAIRS, lambda: pair_model("bart", 3), [], False),
        # Buffers that older releases saved.
        (
            NEXT,
            llama,
            [
                bad.with_weights(
                    lambda weights: weights | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
                )
            ],
            False,
        ),
        (PAIRS, lambda: pair_model("bart", 3), [bad.with_weights(with_versions)], False),
        (
            TEXT,
            bert,
            [bad.with_weights(lambda weights: weights | {"bert.embeddings.token_type_ids": torch.zeros(1, 32)})],
            False,
        ),
        # transformers takes its own prefix off as often as it is there.
        (NEXT, llama, [bad.renamed(lambda name: f"model.{name}")], False),
        # What adapt trains may be new.
        (TEXT, lambda: BertModel(BertConfig(**SIZES)), [], True),
        (TAGS, lambda: BertModel(BertConfig(**SIZES)), [], True),
        (TEXT, lambda: BertModel(BertConfig(**SIZES), add_pooling_layer=False), [], True),
        (TEXT, lambda: BertForMaskedLM(BertConfig(**SIZES)), [], True),
        (TAGS, lambda: BertForMaskedLM(BertConfig(**SIZES)), [], True),
        (TEXT, lambda: RobertaForMaskedLM(RobertaConfig(**SIZES)), [], True),
        (TAGS, lambda: RobertaModel(RobertaConfig(**SIZES)), [], True),
        (TEXT, lambda: bert(num_labels=7), [], True),
    ],
)
def test_a_checkpoint_that_fills_its_model(
    task: AnyTask, make: Any, damages: list[bad.Damage], adapt: bool, tmp_path: Path
) -> None:
    compared(task, saved(make(), tmp_path / "model", *damages), adapt=adapt)


def test_what_is_drawn_is_told(tmp_path: Path) -> None:
    plain = compared(TEXT, saved(BertForMaskedLM(BertConfig(**SIZES)), tmp_path / "masked"), adapt=True)
    assert plain.without_head
    assert plain.new == {
        f"{part}.{kind}" for part in ("classifier", "bert.pooler.dense") for kind in ("weight", "bias")
    }
    whole = compared(TEXT, saved(bert(num_labels=3), tmp_path / "whole"), adapt=True)
    assert whole == Filled(frozenset())


def test_comparing_reads_no_weights_and_draws_nothing(tmp_path: Path) -> None:
    # Without a head, which transformers draws beside the base model.
    folder = saved(BertModel(BertConfig(**SIZES)), tmp_path / "model")
    file = folder / "model.safetensors"
    length = int.from_bytes(file.read_bytes()[:8], "little")
    with file.open("r+b") as opened:
        opened.seek(8 + length)
        opened.write(b"\xff" * (file.stat().st_size - 8 - length))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert check_weights(TEXT.new_model, TEXT.load_config(str(folder)), str(folder), new_head=True) is not None
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_that_are_missing_are_not_drawn_to_be_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(llama(), tmp_path / "model", bad.with_config(num_hidden_layers=9))
    init, drawn = LlamaForCausalLM._init_weights, set()

    def noted(self: LlamaForCausalLM, module: torch.nn.Module) -> None:
        drawn.update(weight.device.type for weight in module.parameters(recurse=False))
        init(self, module)

    monkeypatch.setattr(LlamaForCausalLM, "_init_weights", noted)
    with pytest.raises(ModelError, match=r"those of the LlamaForCausalLM that .* 54 of \d+ weights are missing"):
        check_weights(NEXT.new_model, NEXT.load_config(str(folder)), str(folder), new_head=False)
    assert drawn <= {"meta"}
    # As they are where a model is loaded, so that the probe sees them.
    with pytest.raises(ModelError, match="weights are missing"):
        NEXT.load_model(str(folder))
    assert "cpu" in drawn


def test_without_headers_nothing_is_compared(tmp_path: Path) -> None:
    config = TEXT.load_config(str(saved(bert(), tmp_path / "model")))
    assert check_weights(TEXT.new_model, config, "organisation/name", new_head=False) is None


def test_a_gguf_file_is_compared_with_its_model(tmp_path: Path) -> None:
    def compare(name: str, **odd: Any) -> str:
        file = str(bad.write_gguf(tmp_path / name, **odd))
        assert check_weights(NEXT.new_model, NEXT.load_config(file), file, new_head=False) is None
        return file

    NEXT.load_model(compare("whole.gguf"))
    # Tables that are computed are no weights.
    compare("tables.gguf", more={"rope_freqs.weight": (4,)})
    with pytest.raises(ModelError, match=r"it holds 21 tensors, 1 of them biases such as blk.0.attn_q.bias, .* 20 wei"):
        compare("biased.gguf", more={"blk.0.attn_q.bias": (32,)})
    with pytest.raises(ModelError, match=r"lacking.gguf: it holds 19 tensors, .* has 20 weights"):
        compare("lacking.gguf", less=("blk.1.ffn_up",))
    with pytest.raises(ModelError, match=r"1 of \d+ weights are missing \(model.layers.1.mlp.up_proj"):
        NEXT.load_model(str(tmp_path / "lacking.gguf"))


def test_a_configuration_that_transformers_refuses(tmp_path: Path) -> None:
    folder = saved(bert(), tmp_path / "model")
    for values, message in (
        ({"hidden_size": "wide"}, "Field 'hidden_size' expected int"),
        ({"id2label": ["a", "b"]}, "a file of it is malformed: AttributeError"),
        ({"num_attention_heads": 5}, "cannot be loaded: .*not a multiple of the number of attention heads"),
    ):
        other = bad.copied(folder, tmp_path / next(iter(values)), bad.with_config(**values))
        with pytest.raises(ModelError, match=message):
            compared(TEXT, other)
    own_code = {"model_type": "frob", "auto_map": {"AutoConfig": "configuration_frob.Frob"}}
    (folder / "config.json").write_text(json.dumps(own_code))
    with pytest.raises(ModelError, match=r"brings code of its own.*teacher.trust_remote_code: true\.$"):
        TEXT.load_config(str(folder), trust_remote_code=False)


def test_a_tokenizer_without_words_is_refused(tmp_path: Path, teacher_folder: Path) -> None:
    assert len(TEXT.load_tokenizer(str(teacher_folder)).get_vocab()) > 60
    folder = bad.copied(teacher_folder, tmp_path / "model", bad.without_words)
    for task in (TEXT, TAGS):
        with pytest.raises(ModelError, match="its tokenizer has no vocabulary: all of its 5 tokens are special"):
            task.load_tokenizer(str(folder))


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    folder = saved(bert(), tmp_path / "model")
    save_file({"anything.weight": torch.zeros(3)}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"weights are missing.*Take a complete checkpoint"):
        compared(TEXT, folder)


def test_a_head_of_another_task_is_refused(tmp_path: Path) -> None:
    folder = str(saved(bert(), tmp_path / "model"))
    config = TAGS.load_config(folder)
    with pytest.raises(ModelError, match="saved as BertForSequenceClassification, and the task reads a BertForTokenCl"):
        check_weights(TAGS.new_model, config, folder, new_head=False)
    assert check_weights(TAGS.new_model, config, folder, new_head=True) == Filled(frozenset())
    # Also where there are no headers to look at first.
    with pytest.raises(ModelError, match="saved as BertForSequenceClassification, and the task reads a BertForTokenCl"):
        TAGS.load_model(folder)


@pytest.mark.parametrize("name", ["BertForMultiLabelSequenceClassification", "RobertaForSequenceClassification"])
def test_a_head_of_the_same_kind_under_another_name_is_read(name: str, tmp_path: Path) -> None:
    folder = saved(bert(), tmp_path / "model", bad.with_config(architectures=[name]))
    assert compared(TEXT, folder) == Filled(frozenset())


@pytest.mark.parametrize(
    ("task", "make", "settings", "method"),
    [
        (NEXT, llama, {"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        (NEXT, llama, {"quant_method": "gptq", "bits": 4}, "gptq"),
        (TEXT, bert, {"quant_method": "fp8"}, "fp8"),
        (TEXT, bert, {"load_in_8bit": True}, "a method that its config.json does not name"),
    ],
)
@pytest.mark.parametrize("location", [None, "organisation/name"])
def test_quantised_weights_are_refused_by_the_name_of_their_method(
    task: AnyTask, make: Any, settings: dict[str, Any], method: str, location: str | None, tmp_path: Path
) -> None:
    folder = str(saved(make(), tmp_path / "model", bad.with_config(quantization_config=settings)))
    where = location or folder
    with pytest.raises(ModelError, match=rf"^{where}: its weights are quantised \({method}\), .*model.dequantize"):
        check_weights(task.new_model, task.load_config(folder), where, new_head=False)
