"""Models of families that are not known here: they can teach and be students, where what is asked of them is tried."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BloomConfig,
    BloomForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForSequenceClassification,
)

from potstill.data.encoded import EncodedRows
from potstill.errors import ModelError
from potstill.models import FAMILIES
from potstill.recipe.yaml_file import load_recipe
from potstill.stages.inputs import Inputs, read_inputs
from potstill.stages.plan import make_plan, shapes_of
from potstill.tasks import CausalLM, TextClassification

TOKENS = 80


def bloom() -> PreTrainedModel:
    torch.manual_seed(1)
    return BloomForCausalLM(BloomConfig(vocab_size=TOKENS, hidden_size=16, n_layer=2, n_head=2, eos_token_id=3))


def neox() -> PreTrainedModel:
    torch.manual_seed(1)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    return GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=TOKENS, eos_token_id=3, **sizes))


def saved(model: PreTrainedModel, folder: Path, tokenizer: Path) -> Path:
    shutil.copytree(tokenizer, folder)
    (folder / "config.json").unlink()
    model.save_pretrained(folder)
    return folder


def test_one_that_cannot_keep_packed_examples_apart_says_so(tmp_path: Path, chat_teacher_folder: Path) -> None:
    assert "bloom" not in FAMILIES
    folder = saved(bloom(), tmp_path / "bloom", chat_teacher_folder)
    with pytest.raises(ModelError, match=r"a bloom model looks at examples that share a row.*task.packing: false"):
        CausalLM().load_model(str(folder))
    task = CausalLM(packing=False)
    model = task.load_model(str(folder)).eval()
    assert torch.equal(task.head_of(model).weight, model.get_output_embeddings().weight)


def test_one_that_keeps_them_apart_may_pack(tmp_path: Path, chat_teacher_folder: Path) -> None:
    assert "gpt_neox" not in FAMILIES
    CausalLM().load_model(str(saved(neox(), tmp_path / "neox", chat_teacher_folder)))


def test_it_teaches_a_student_that_exists_and_none_that_is_cut(
    tmp_path: Path, chat_project: Path, chat_teacher_folder: Path
) -> None:
    folder = saved(neox(), tmp_path / "neox", chat_teacher_folder)
    student = f"student={{kind: pretrained, model: {chat_teacher_folder}}}"
    recipe = load_recipe(chat_project / "recipe.yaml", [f"teacher.model={folder}", student])
    inputs = read_inputs(recipe, chat_project)
    shapes = shapes_of(recipe, inputs)
    assert (shapes.teacher.family, shapes.teacher.layers, shapes.teacher.width) == ("gpt_neox", 2, 16)
    assert (shapes.teacher.heads, shapes.teacher.intermediate, shapes.teacher.vocabulary) == (2, 24, TOKENS)
    assert shapes.student.family == "llama"
    make_plan(recipe, inputs, tmp_path)
    with pytest.raises(ModelError, match="family 'gpt_neox' cannot be shrunk yet"):
        read_inputs(load_recipe(chat_project / "recipe.yaml", [f"teacher.model={folder}"]), chat_project)


def classifying_decoder(folder: Path, tokenizer: Path, pad: int | None) -> Path:
    torch.manual_seed(2)
    config = Qwen2Config(
        vocab_size=200,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        pad_token_id=pad,
        id2label={0: "beast", 1: "fruit", 2: "metal"},
        label2id={"beast": 0, "fruit": 1, "metal": 2},
    )
    return saved(Qwen2ForSequenceClassification(config), folder, tokenizer)


def test_a_decoder_with_a_head_teaches_an_encoder_that_exists(
    tmp_path: Path, project: Path, teacher_folder: Path
) -> None:
    folder = classifying_decoder(tmp_path / "decoder", teacher_folder, pad=0)

    def read(teacher: Path) -> Inputs:
        changes = [f"teacher.model={teacher}", "adapt=null", "data.adapt=null"]
        student = f"student={{kind: pretrained, model: {teacher_folder}}}"
        return read_inputs(load_recipe(project / "recipe.yaml", [*changes, student]), project)

    assert read(folder).lead.config.model_type == "qwen2"
    with pytest.raises(ModelError, match=r"teacher.model: it answers at the last token .* as None, .*\[PAD\] \(0\)"):
        read(classifying_decoder(tmp_path / "unpadded", teacher_folder, pad=None))


def test_padding_changes_no_answer_of_a_decoder(tmp_path: Path, teacher_folder: Path) -> None:
    folder = classifying_decoder(tmp_path / "decoder", teacher_folder, pad=0)
    task = TextClassification()
    task.check_tokenizer(AutoTokenizer.from_pretrained(folder), task.load_config(str(folder)))
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokens = [np.array([2, 9, 3], dtype=np.int32), np.array([2, 9, 11, 12, 13, 3], dtype=np.int32)]
    rows = EncodedRows(("a", "b"), tokens, np.array([0, 1]), 0, 0)
    with torch.inference_mode():
        together = task.ask(model, rows.collate([0, 1])).logits
        alone = task.ask(model, rows.collate([0])).logits
    assert together is not None and alone is not None
    assert torch.allclose(together[0], alone[0], atol=1e-5)
    assert json.loads((folder / "config.json").read_text())["pad_token_id"] == 0
