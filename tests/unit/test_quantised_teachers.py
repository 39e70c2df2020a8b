"""Teachers in 4 or 8 bits, and spread over devices: what stays whole, what is refused, what is told."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, BertForSequenceClassification, LlamaForCausalLM, PreTrainedModel

from potstill import loaded_as
from potstill.errors import ModelError, PotstillError, RecipeError
from potstill.loaded_as import IN_FLOAT32, LoadedAs, Quantization, placed
from potstill.presentation.formats import weights_lines
from potstill.recipe.yaml_file import load_recipe
from potstill.records import WeightsRecord
from potstill.runtimes.folder import ModelFolder
from potstill.runtimes.timing import Loads, SpeedRequest
from potstill.runtimes.transformers import TransformersPredictor
from potstill.stages.inputs import read_inputs
from potstill.targets import HiddenTargets, plain_log_sum_exp
from potstill.tasks.causal_lm import CausalLM
from potstill.tasks.seq2seq import Seq2Seq
from potstill.tasks.text_classification import TextClassification
from potstill.teachers import FrozenTeacher
from tests.commands import potstill, record, stages_that_worked
from tests.pair_models import make_pair_teacher
from tests.unit.test_teacher_types import CPU, batch_of

BITS: list[Quantization] = ["4bit", "8bit"]
ERROR = {"4bit": 0.5, "8bit": 0.1}
"""Of the outputs of a random model of 32 channels, as a share of their length: 0.2 and 0.02 were measured."""


@pytest.fixture(scope="session")
def wide_chat_teacher_folder(chat_teacher_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chat model with rows of whole blocks of 4 bits."""
    folder = tmp_path_factory.mktemp("wide") / "teacher"
    shutil.copytree(chat_teacher_folder, folder)
    config = AutoConfig.from_pretrained(folder)
    config.update({"hidden_size": 64, "intermediate_size": 128, "head_dim": 16})
    torch.manual_seed(5)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def wide_teacher_folder(teacher_folder: Path, tmp_path: Path) -> Path:
    """The same of the encoder."""
    shutil.copytree(teacher_folder, tmp_path / "wide")
    config = AutoConfig.from_pretrained(teacher_folder)
    config.update({"hidden_size": 64})
    torch.manual_seed(5)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "wide")
    return tmp_path / "wide"


def linear_layers(model: PreTrainedModel) -> dict[str, bool]:
    """Whether each linear layer is in few bits, by name."""
    return {
        name: not module.weight.is_floating_point()
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }


@pytest.mark.parametrize("bits", BITS)
def test_a_chat_model_in_few_bits(wide_chat_teacher_folder: Path, bits: Quantization) -> None:
    task = CausalLM()
    whole = task.load_model(str(wide_chat_teacher_folder))
    held = task.load_model(str(wide_chat_teacher_folder), how=LoadedAs("float32", bits).arguments)
    layers = linear_layers(held)
    assert not layers.pop("lm_head") and all(layers.values()) and len(layers) == 7 * 4
    assert held.get_input_embeddings().weight.equal(whole.get_input_embeddings().weight)
    batch = batch_of(torch.arange(24).reshape(2, 12))
    logits = []
    for model in (whole, held):
        target = FrozenTeacher(model, CPU, task.ask)(batch).target
        assert isinstance(target, HiddenTargets)
        logits.append(target.logits_at(slice(None), 1.0, plain_log_sum_exp))
    error = (logits[1] - logits[0]).norm() / logits[0].norm()
    assert 1e-4 < error < ERROR[bits]


@pytest.mark.parametrize("bits", BITS)
def test_a_classifier_in_few_bits(wide_teacher_folder: Path, bits: Quantization) -> None:
    task = TextClassification()
    held = task.load_model(str(wide_teacher_folder), how=LoadedAs("bfloat16", bits).arguments)
    layers = linear_layers(held)
    assert not layers.pop("classifier") and all(layers.values())
    batch = batch_of(torch.arange(5, 25).reshape(2, 10))
    outputs = FrozenTeacher(held, CPU, task.ask)(batch)
    expected = FrozenTeacher(task.load_model(str(wide_teacher_folder)), CPU, task.ask)(batch)
    assert outputs.logits is not None and expected.logits is not None and outputs.logits.dtype == torch.float32
    assert (outputs.logits - expected.logits).norm() < ERROR[bits] * expected.logits.norm()


def test_an_encoder_decoder_in_few_bits(tmp_path: Path) -> None:
    """But for the matrices that T5 itself keeps whole."""
    make_pair_teacher(tmp_path, "t5")
    held = Seq2Seq().load_model(str(tmp_path), how=LoadedAs("float32", "8bit").arguments)
    whole = {name.rpartition(".")[2] for name, few in linear_layers(held).items() if not few}
    assert whole == {"lm_head", "wo"}


def test_rows_that_are_no_whole_blocks_are_refused_on_a_processor(chat_teacher_folder: Path) -> None:
    with pytest.raises(ModelError, match=r"q_proj has 32 inputs.*blocks of 64.*8bit"):
        CausalLM().load_model(str(chat_teacher_folder), how=LoadedAs("float32", "4bit").arguments)


def test_what_it_costs(wide_chat_teacher_folder: Path) -> None:
    """All weights are counted, and the size is that in memory."""
    costs, tokenizer = [], CausalLM().load_tokenizer(str(wide_chat_teacher_folder))
    for held in (IN_FLOAT32, LoadedAs("float32", "4bit")):
        folder = ModelFolder(wide_chat_teacher_folder, loaded_as=held)
        predictor = TransformersPredictor(folder, CausalLM(), tokenizer, CPU, 1)
        predictor.parameters()
        predictor.release()
        costs.append((predictor.parameters(), predictor.weights(), predictor.loads()))
    (plain, whole, loads), (few, packed, held_loads) = costs
    assert (plain == few and plain.total == whole.size_bytes // 4 - 500 // 4) or plain == few
    assert packed.type == "float32 in 4bit" and packed.size_bytes < 0.5 * whole.size_bytes
    assert loads == Loads((str(wide_chat_teacher_folder),))
    assert held_loads.held == {
        str(wide_chat_teacher_folder): {"type": "float32", "quantization": "4bit", "spread": False}
    }
    request = SpeedRequest(held_loads, "prompts", [[1, 2]], 1, 0, 1, "cpu")
    assert SpeedRequest.from_json(request.as_json()).loads == held_loads


@pytest.mark.parametrize(
    ("setting", "change", "message"),
    [
        ("teacher.quantization=4bit", [], "teacher.quantization: 4bit, and adapt trains all weights"),
        ("teacher.device_map=auto", [], "teacher.device_map: auto, and adapt trains all weights"),
        ("teacher.quantization=3bit", ["adapt=null"], "quantization"),
        ("teacher.device_map=balanced", ["adapt=null"], "device_map"),
    ],
)
def test_what_is_refused(project: Path, setting: str, change: list[str], message: str) -> None:
    with pytest.raises(PotstillError, match=message):
        read_inputs(load_recipe(project / "recipe.yaml", [setting, *change]), project)


def test_processes_that_share_the_work_have_a_device_each(chat_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(chat_project / "recipe.yaml", ["teacher.device_map=auto", "adapt=null"])
    assert read_inputs(recipe, chat_project).lead.loaded_as == LoadedAs(spread=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="device_map: auto, and torchrun started 2 processes"):
        read_inputs(recipe, chat_project)


@pytest.mark.parametrize(
    ("held", "key"), [(LoadedAs(quantization="8bit"), "quantization"), (LoadedAs(spread=True), "device_map")]
)
def test_a_package_that_is_not_there_is_named(held: LoadedAs, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaded_as, "find_spec", lambda package: None)
    with pytest.raises(ModelError, match=rf"teacher\.{key}: it needs .* pip install potstill\[large\]"):
        _ = held.arguments
    IN_FLOAT32.require_packages()


def test_a_model_that_does_not_fit_on_the_devices_is_refused() -> None:
    model: Any = nn.Linear(2, 2)
    model.hf_device_map = {"model.layers.0": 0, "model.layers.1": "cpu"}
    with pytest.raises(ModelError, match=r"1 parts of the model \(model\.layers\.1 first\) find no place"):
        placed(model, torch.device("cuda"))
    model.hf_device_map = {"model.layers.0": 0, "model.layers.1": 1}
    assert placed(model, torch.device("cuda")) is model


def test_a_model_that_is_spread_answers_as_one_that_is_not(chat_teacher_folder: Path) -> None:
    task, batch = CausalLM(), batch_of(torch.arange(24).reshape(2, 12))
    found = []
    for held in (IN_FLOAT32, LoadedAs(spread=True)):
        model = task.load_model(str(chat_teacher_folder), how=held.arguments)
        if held.spread:
            # On a machine with one device transformers has nothing to spread over.
            model.hf_device_map = {"": "cpu"}
        target = FrozenTeacher(model, CPU, task.ask)(batch).target
        assert isinstance(target, HiddenTargets)
        found.append(target.logits_at(slice(None), 1.0, plain_log_sum_exp))
    assert found[0].equal(found[1])


def test_what_is_told_of_such_weights() -> None:
    held = WeightsRecord(stored="bfloat16", answers="bfloat16", quantization="4bit", spread=True)
    assert list(weights_lines({"teacher": held})) == [
        "the teacher answers in bfloat16, as its weights are stored, with those of its linear layers in 4bit, spread "
        "over the devices of this machine"
    ]
    assert LoadedAs("bfloat16", "4bit", spread=True).told == "bfloat16 in 4bit"
    # Where the layers lie decides nothing of the answers.
    assert LoadedAs(spread=True).told is None


@pytest.mark.long
def test_a_run_with_a_teacher_in_few_bits(chat_project: Path, wide_chat_teacher_folder: Path) -> None:
    """The student is cut from the weights as they are stored."""
    recipe, run = chat_project / "recipe.yaml", chat_project / "run"
    settings = [
        f"teacher.model={wide_chat_teacher_folder}",
        "adapt=null",
        "train.epochs=1",
        "gate.min_retention=null",
        "train.baseline=false",
    ]
    settings += ["label.max_kl=null"]
    changes = [argument for each in settings for argument in ("--set", each)]
    potstill("run", recipe, "--out", run, *changes, check=None)
    whole = record(run, "train/student")
    changes += ["--set", "teacher.quantization=4bit"]
    assert "linear layers in 4bit" in potstill("check", recipe, *changes).stdout
    done = potstill("run", recipe, "--out", run, *changes, check=None)
    assert {"label/teacher/logits", "train/student", "evaluate"} <= stages_that_worked(done.stderr)
    assert "MatMul" not in done.stderr and "gemm" not in done.stderr
    student = record(run, "train/student")
    assert student["initial_digest"] == whole["initial_digest"] and student["digest"] != whole["digest"]
    manifest = json.loads((run / "label/teacher/logits/manifest.json").read_text())
    assert manifest["source"]["weights"] == "float32 in 4bit"
    assert record(run, "evaluate")["models"]["teacher"]["weights_type"] == "float32 in 4bit"
    assert "linear layers in 4bit" in (run / "report/report.html").read_text()
