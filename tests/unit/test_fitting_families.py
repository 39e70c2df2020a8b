"""Which families a task reads: one sentence for what does not fit, and the families that do."""

import shutil
from pathlib import Path

import pytest
import torch
from transformers import (
    BartConfig,
    BartForSequenceClassification,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    LlamaConfig,
    LlamaForTokenClassification,
    PegasusConfig,
    PegasusForConditionalGeneration,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForSequenceClassification,
)

from potstill import cli
from potstill.errors import ModelError
from potstill.models.fitting import require_fitting
from potstill.recipe.yaml_file import load_recipe
from potstill.stages.inputs import read_inputs
from potstill.tasks import CausalLM
from tests import bad_models as bad
from tests.pair_models import make_pair_project, make_pair_teacher
from tests.tagged_project import make_tagged_project

SIZES = {"vocab_size": 100, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
ENCODERS = r"bert, camembert, deberta, deberta-v2, distilbert, modernbert, roberta, xlm-roberta"
ENCODER_DECODERS = "bart, marian, mt5, t5"


def decoder_with_a_head() -> PreTrainedModel:
    return Qwen2ForSequenceClassification(Qwen2Config(**SIZES, intermediate_size=8, num_key_value_heads=1))


def tagging_llama() -> PreTrainedModel:
    return LlamaForTokenClassification(LlamaConfig(**SIZES, intermediate_size=8))


def bart_with_a_head() -> PreTrainedModel:
    return BartForSequenceClassification(BartConfig(vocab_size=100, d_model=16, encoder_layers=1, decoder_layers=1))


def read(project: Path, teacher: Path, *changes: str) -> None:
    recipe = load_recipe(project / "recipe.yaml", [f"teacher.model={teacher}", *changes])
    read_inputs(recipe, project)


@pytest.mark.parametrize(
    ("make", "word", "instead"),
    [(decoder_with_a_head, "a decoder", "causal_lm"), (bart_with_a_head, "an encoder-decoder", "seq2seq")],
)
@pytest.mark.parametrize("changes", [[], ["adapt=null", "data.adapt=null"]])
def test_texts_are_classified_by_encoders(
    make: object, word: str, instead: str, changes: list[str], tmp_path: Path, project: Path, teacher_folder: Path
) -> None:
    assert callable(make)
    folder = shutil.copytree(teacher_folder, tmp_path / "model")
    make().save_pretrained(folder)
    message = (
        rf"is {word}, and task.kind: text_classification takes an encoder \({ENCODERS}\).*use task.kind: {instead}"
    )
    with pytest.raises(ModelError, match=message):
        read(project, folder, *changes)


def test_words_are_tagged_by_encoders(tmp_path: Path, chat_teacher_folder: Path) -> None:
    project = make_tagged_project(tmp_path, chat_teacher_folder)
    with pytest.raises(ModelError, match=r"'llama' is a decoder, and task.kind: token_classification takes an encoder"):
        read(project, chat_teacher_folder)
    folder = shutil.copytree(chat_teacher_folder, tmp_path / "model")
    tagging_llama().save_pretrained(folder)
    with pytest.raises(ModelError, match=r"'llama' is a decoder, and task.kind: token_classification takes an encoder"):
        read(project, folder)


def test_the_next_token_is_for_decoders(tmp_path: Path, chat_project: Path, teacher_folder: Path) -> None:
    families = "gemma2, gemma3_text, gpt2, granite, llama, mistral, olmo2, phi3, qwen2, qwen3, qwen3_moe"
    decoders = rf"task.kind: causal_lm takes a decoder \({families}\)"
    with pytest.raises(
        ModelError, match=rf"'bert' is an encoder, and {decoders}.*text_classification or token_classif"
    ):
        read(chat_project, teacher_folder)
    with pytest.raises(ModelError, match=rf"'t5' is an encoder-decoder, and {decoders}.*use task.kind: seq2seq\.$"):
        read(chat_project, make_pair_teacher(tmp_path / "pairs", "t5"))


def test_pairs_are_for_encoder_decoders(tmp_path: Path, chat_teacher_folder: Path) -> None:
    teacher = make_pair_teacher(tmp_path / "pairs", "t5")
    project = make_pair_project(tmp_path, teacher)
    with pytest.raises(
        ModelError, match=rf"'llama' is a decoder, and .* an encoder-decoder \({ENCODER_DECODERS}\).*causal_lm\.$"
    ):
        read(project, chat_teacher_folder)
    folder = shutil.copytree(teacher, tmp_path / "model")
    sizes = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 100}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    PegasusForConditionalGeneration(PegasusConfig(**sizes, **heads)).save_pretrained(folder)
    for sizes in ("{kind: shrunk, layers: 1}", "{kind: shrunk, layers: 1, decoder_layers: 1}"):
        with pytest.raises(
            ModelError, match=rf"family 'pegasus' cannot be shrunk yet; known: bart, bert, .*\({ENCODER_DECODERS}\)\.$"
        ):
            read(project, folder, f"student={sizes}")


def test_the_language_model_of_a_gemma_that_sees_images_is_taken_out_as_the_message_says(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as refused:
        require_fitting("gemma3", "causal_lm")
    said = str(refused.value)
    assert "reads images too, and cannot be shrunk; its language model can (gemma3_text)" in said
    for step in (
        "Gemma3ForConditionalGeneration",
        "model.language_model",
        "lm_head",
        "Gemma3ForCausalLM",
        "text_config",
    ):
        assert step in said
    text = {"vocab_size": 60, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 3, "head_dim": 8}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 28, "patch_size": 14}
    whole = Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text, vision_config=vision, image_token_index=59, mm_tokens_per_image=4)
    ).eval()
    alone = Gemma3ForCausalLM(whole.config.text_config)
    alone.model, alone.lm_head = whole.model.language_model, whole.lm_head
    alone.save_pretrained(tmp_path)
    loaded = CausalLM().load_model(str(tmp_path)).eval()
    ids = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids).logits, whole(input_ids=ids).logits)


def test_a_family_that_transformers_does_not_know_either(tmp_path: Path, project: Path, teacher_folder: Path) -> None:
    folder = bad.copied(teacher_folder, tmp_path / "model", bad.with_config(model_type="frob"))
    with pytest.raises(ModelError, match=r"family 'frob' cannot be shrunk yet; known: .*an encoder \("):
        read(project, folder)


def test_a_member_that_is_not_cut_may_be_of_any_family() -> None:
    require_fitting("albert", "text_classification", cut=False)
    with pytest.raises(ModelError, match=r"^teacher.of.b: family 'llama' is a decoder"):
        require_fitting("llama", "text_classification", where="teacher.of.b", cut=False)


def test_a_gguf_file_is_for_language_models(tmp_path: Path, project: Path) -> None:
    with pytest.raises(ModelError, match=r"tiny.gguf: GGUF files are read for task.kind: causal_lm alone"):
        read(project, bad.write_gguf(tmp_path / "tiny.gguf"))


def test_the_command_refuses_in_one_sentence(
    tmp_path: Path,
    project: Path,
    teacher_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = bad.copied(teacher_folder, tmp_path / "model", bad.renamed(lambda name: f"_orig_mod.{name}"))
    change = ["--set", f"teacher.model={folder}"]
    monkeypatch.setattr("sys.argv", ["potstill", "check", str(project / "recipe.yaml"), *change])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith(f"error: {folder}: its weights are not those of the BertForSequenceClassification")
