"""The type of a teacher's weights: as they are stored, with outputs and losses in float32."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertForSequenceClassification,
    GraniteConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from potstill.errors import ModelError, PotstillError
from potstill.loaded_as import IN_FLOAT32, LoadedAs, WeightsType, computes_in
from potstill.measure.weights import one_type
from potstill.presentation.formats import weights_lines
from potstill.progress import Progress
from potstill.recipe.yaml_file import load_recipe
from potstill.records import AdaptRecord, WeightsRecord
from potstill.run_dir import RunDir
from potstill.signals import Batch, Read, Signal
from potstill.stages import teacher_weights
from potstill.stages.first_weights import initial_student
from potstill.stages.inputs import read_inputs
from potstill.stages.teacher_files import Files
from potstill.targets import Head, HiddenTargets, plain_log_sum_exp
from potstill.tasks import causal_lm
from potstill.tasks.causal_lm import CausalLM, require_known_head
from potstill.tasks.text_classification import TextClassification
from potstill.teachers import FrozenTeacher
from tests.commands import potstill, record, stages_that_worked

CPU = torch.device("cpu")
HALVES: list[WeightsType] = ["bfloat16", "float16"]


def in_type(folder: Path, to: Path, dtype: torch.dtype) -> Path:
    """The same model with weights of a type, in another folder."""
    auto = BertForSequenceClassification if "bert" in (folder / "config.json").read_text() else AutoModelForCausalLM
    to.mkdir(parents=True)
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    auto.from_pretrained(folder, dtype=dtype).save_pretrained(to)
    return to


def batch_of(ids: torch.Tensor) -> Batch:
    ones = torch.ones_like(ids)
    inputs = {"input_ids": ids, "attention_mask": ones}
    return Batch(tuple(map(str, range(len(ids)))), inputs, ids, ones.bool())


@pytest.mark.parametrize(
    ("asked", "precision", "stored", "able", "answers"),
    [
        ("auto", "auto", "float32", True, None),
        ("auto", "auto", "bfloat16", True, "bfloat16"),
        ("auto", "auto", "float16", True, "float16"),
        ("auto", "auto", "bfloat16", False, "float32"),
        ("auto", "auto", "float16", False, "float32"),
        ("auto", "float32", "bfloat16", True, "float32"),
        ("auto", "bfloat16", "bfloat16", True, "bfloat16"),
        ("auto", "bfloat16", "float16", True, "float32"),
        ("auto", "auto", "float64", True, None),
        ("float32", "auto", "float32", True, None),
        ("float32", "auto", "bfloat16", True, "float32"),
        ("float32", "bfloat16", "bfloat16", True, "float32"),
        ("bfloat16", "auto", "float32", False, "bfloat16"),
        ("float16", "auto", "bfloat16", False, "float16"),
        ("bfloat16", "bfloat16", "float32", False, "bfloat16"),
        ("bfloat16", "float32", "bfloat16", True, PotstillError),
        ("float16", "bfloat16", "float16", True, PotstillError),
    ],
)
def test_the_type_in_which_a_teacher_answers(
    project: Path, monkeypatch: pytest.MonkeyPatch, asked: str, precision: str, stored: str, able: bool, answers: Any
) -> None:
    monkeypatch.setattr(teacher_weights, "computes_in", lambda type, device: able)
    recipe = load_recipe(project / "recipe.yaml", [f"teacher.dtype={asked}", f"label.precision={precision}"])
    if answers is PotstillError:
        with pytest.raises(PotstillError, match=rf"teacher\.dtype: {asked}, and label\.precision: {precision}"):
            teacher_weights.weights_of(recipe, recipe.lead, stored, "teacher")
        return
    loaded_as, told = teacher_weights.weights_of(recipe, recipe.lead, stored, "teacher")
    assert loaded_as.type == (answers or "float32")
    assert (told and told.answers) == answers and (told is None or told.stored == stored)
    # Where the two differ, or the user chose, the reason is told.
    if told is not None and (stored != answers or asked != "auto"):
        assert told.why and ("for half the memory" in told.why) == (not able and asked == "auto")


def test_processors_say_what_they_compute_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for found, able in (
        ({}, set()),
        ({"avx512_f": True, "avx512_bf16": False}, set()),
        ({"avx512_bf16": True}, {"bfloat16"}),
        ({"amx_bf16": True, "amx_fp16": True}, {"bfloat16", "float16"}),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found, raising=False)
        assert {each for each in HALVES if computes_in(each, "cpu")} == able
        assert computes_in("float32", "cpu")
    # As of a T4, which has it by way of float32 alone.
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert not computes_in("bfloat16", "cuda") and computes_in("float16", "cuda")


def capped(dtype: torch.dtype) -> PreTrainedModel:
    """A model whose logits are divided, and large enough to be rounded."""
    torch.manual_seed(3)
    config = GraniteConfig(
        vocab_size=200,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        logits_scaling=0.05,
        tie_word_embeddings=True,
    )
    return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", HALVES)
def test_logits_are_sums_in_float32_of_products_of_the_own_type(name: WeightsType, autocast: bool) -> None:
    model = capped(getattr(torch, name))
    batch = batch_of(torch.arange(24).reshape(2, 12))
    states = model.base_model(**batch.inputs, use_cache=False).last_hidden_state.reshape(-1, 32)
    assert states.dtype == getattr(torch, name)
    expected = states.double() @ model.get_output_embeddings().weight.double().T / 0.05
    teacher = FrozenTeacher(model, CPU, CausalLM().ask)
    for _ in range(2):
        # The type of autocast is that of the student.
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            target = teacher(batch).target
        assert isinstance(target, HiddenTargets) and target.hidden.dtype == torch.float32
        assert torch.equal(target.hidden, states.float()) and target.head.weight.dtype == torch.float32
        logits = target.logits_at(slice(None), 1.0, plain_log_sum_exp)
        assert logits.dtype == torch.float32
        largest = expected.abs().max()
        assert (logits - expected).abs().max() < 1e-6 * largest
        assert (logits.to(states.dtype) - expected).abs().max() > 1e-4 * largest  # what rounding would cost
    # The copy that this needs is made once.
    first, second = (teacher(batch).target for _ in range(2))
    assert isinstance(first, HiddenTargets) and isinstance(second, HiddenTargets)
    assert first.head.weight is second.head.weight


def test_a_head_in_float32_is_not_copied() -> None:
    for dtype in (torch.float32, torch.float64):
        head = Head(torch.ones(3, 2, dtype=dtype))
        assert head.with_wide_sums() is head
    half = Head(torch.ones(3, 2, dtype=torch.float16), torch.ones(3, dtype=torch.float16), 0.5, 3.0).with_wide_sums()
    assert half.bias is not None
    assert (half.weight.dtype, half.bias.dtype, half.scale, half.soft_cap) == (torch.float32, torch.float32, 0.5, 3.0)


@pytest.mark.parametrize("name", HALVES)
def test_a_classifiers_outputs_are_not_rounded(teacher_folder: Path, tmp_path: Path, name: WeightsType) -> None:
    dtype = getattr(torch, name)
    folder = in_type(teacher_folder, tmp_path / "half", dtype)
    task = TextClassification()
    model = task.load_model(str(folder), how=LoadedAs(name).arguments)
    assert model.base_model.dtype == dtype and model.dtype == dtype
    batch = batch_of(torch.randint(5, 60, (4, 9), generator=torch.Generator().manual_seed(0)))
    pooled = model.base_model(**batch.inputs).pooler_output
    expected = pooled.double() @ model.classifier.weight.double().T + model.classifier.bias.double()
    read = Read(Signal.HIDDEN_STATES, 2)
    outputs = FrozenTeacher(model, CPU, task.ask, frozenset({read}))(batch)
    assert outputs.logits is not None and outputs.logits.dtype == torch.float32
    assert (outputs.logits - expected).abs().max() < 1e-7
    assert (outputs.logits != outputs.logits.to(dtype)).any()
    assert outputs.features[read].dtype == torch.float32


@pytest.mark.parametrize("name", HALVES)
def test_a_last_layer_that_is_stored_in_float32_is_not_rounded(
    teacher_folder: Path, tmp_path: Path, name: WeightsType
) -> None:
    folder = in_type(teacher_folder, tmp_path / "half", getattr(torch, name))
    file = folder / "model.safetensors"
    tensors = load_file(file)
    # A year, of which half precision has none between 2004 and 2008, or 2005 and 2006.
    bias = torch.tensor([2005.95, -3.0001])
    save_file(tensors | {"classifier.bias": bias}, file, metadata={"format": "pt"})
    model = TextClassification().load_model(str(folder), how=LoadedAs(name).arguments)
    assert torch.equal(model.classifier.bias, bias)
    assert model.base_model.dtype == getattr(torch, name)


@pytest.mark.parametrize("name", HALVES)
def test_a_checkpoint_of_two_types_is_cut_in_float32(teacher_folder: Path, tmp_path: Path, name: WeightsType) -> None:
    folder = in_type(teacher_folder, tmp_path / "half", getattr(torch, name))
    assert one_type(folder) == name
    tensors = load_file(folder / "model.safetensors")
    mixed = tensors | {"classifier.weight": tensors["classifier.weight"].float()}
    save_file(mixed, folder / "model.safetensors", metadata={"format": "pt"})
    assert one_type(folder) == "float32"
    weights = WeightsRecord(stored=name, answers=name, why="", quantization=None, spread=False)
    files = Files(str(folder), "", TextClassification().load_config(str(folder)), weights=weights)
    assert files.as_stored == IN_FLOAT32


@pytest.mark.parametrize("wrong", [False, True])
def test_a_head_that_is_not_known_is_found_out_in_half_precision(wrong: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = capped(torch.bfloat16)
    if not wrong:
        return require_known_head(model, "model")
    head = causal_lm.head_of(model)
    monkeypatch.setattr(causal_lm, "head_of", lambda model: replace(head, scale=1.05 * head.scale))
    with pytest.raises(ModelError, match="its logits are not those of its output layer"):
        require_known_head(model, "model")


def test_first_weights_are_those_of_a_teacher_in_float32(
    chat_project: Path, chat_teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether its weights are read as they are stored, or into float32."""
    in_type(chat_teacher_folder, chat_project / "half", torch.bfloat16)
    in_type(chat_project / "half", chat_project / "wide", torch.float32)
    made, loaded, load = [], [], CausalLM.load_model

    def watched(*given: Any, **more: Any) -> PreTrainedModel:
        loaded.append(load(*given, **more))
        return loaded[-1]

    monkeypatch.setattr(CausalLM, "load_model", watched)
    for name in ("half", "wide"):
        settings = [f"teacher.model={name}", "adapt=null", "student.width=16"]
        recipe = load_recipe(chat_project / "recipe.yaml", settings)
        inputs = read_inputs(recipe, chat_project)
        taught = AdaptRecord(adapted=False, location=str(chat_project / name), digest="")
        made.append(initial_student(recipe, inputs, RunDir(tmp_path / "run", Progress()), taught))
    assert [each.dtype for each in loaded] == [torch.bfloat16, torch.float32]
    half, wide = (model.state_dict() for model in made)
    assert all(half[name].dtype == torch.float32 and half[name].equal(wide[name]) for name in wide)


def test_what_is_not_set_is_in_no_digest(chat_project: Path) -> None:
    recipe = load_recipe(chat_project / "recipe.yaml")
    assert "dtype" not in recipe.model_dump(mode="json")["teacher"]
    inputs = read_inputs(recipe, chat_project)
    assert inputs.lead.loaded_as == IN_FLOAT32 and inputs.loaded_as_in_digests == {}


def test_what_is_told_of_weights() -> None:
    weights = {
        "teacher": WeightsRecord(stored="bfloat16", answers="bfloat16"),
        "other": WeightsRecord(stored="bfloat16", answers="float32", why="as teacher.of.other.dtype says"),
    }
    assert list(weights_lines(weights)) == [
        "the teacher answers in bfloat16, as its weights are stored",
        "the teacher other answers in float32, and its weights are stored in bfloat16, as teacher.of.other.dtype says",
    ]


def test_labels_know_the_type_of_their_teacher(chat_project: Path, chat_teacher_folder: Path) -> None:
    """And an adapted teacher does not: it is trained and saved in float32, whatever it answers in."""
    in_type(chat_teacher_folder, chat_project / "half", torch.bfloat16)
    recipe, run = chat_project / "recipe.yaml", chat_project / "run"
    common = ("--out", run, "--set", "teacher.model=half", "--set", "adapt.epochs=2")

    def label(*more: str) -> set[str]:
        changed = [argument for each in more for argument in ("--set", each)]
        done = potstill("label", recipe, *common, *changed)
        return {name.split("/")[0] for name in stages_that_worked(done.stderr)}

    def manifest() -> Any:
        return json.loads((run / "label/teacher/logits/manifest.json").read_text())["source"]

    # The recipe asks for arithmetic in float32.
    assert label() == {"plan", "adapt", "label"} and "weights" not in manifest()
    assert label("teacher.dtype=float32") == {"plan"} and label() == {"plan"}
    assert label("label.precision=auto", "teacher.dtype=bfloat16") == {"plan", "label"}
    assert (manifest()["weights"], manifest()["precision"]) == ("bfloat16", "bfloat16")
    assert label("label.precision=auto", "teacher.dtype=float16") == {"plan", "label"}
    assert record(run, "plan")["weights"]["teacher"]["answers"] == "float16"


@pytest.mark.parametrize("mode", ["stored", "online"])
def test_a_run_with_a_chat_model_in_half_precision(chat_project: Path, chat_teacher_folder: Path, mode: str) -> None:
    in_type(chat_teacher_folder, chat_project / "half", torch.bfloat16)
    recipe, run = chat_project / "recipe.yaml", chat_project / "run"
    settings = ["teacher.model=half", "adapt=null", "label.precision=auto", "teacher.dtype=bfloat16", "train.epochs=1"]
    settings += [f"label.mode={mode}", f"label.features={mode}", "gate.min_retention=null", "train.baseline=false"]
    settings += ["losses=[{kind: soft_targets}, {kind: hidden_states}]"]
    changes = [argument for each in settings for argument in ("--set", each)]
    shown = potstill("check", recipe, *changes)
    assert "the teacher answers in bfloat16, as its weights are stored, as teacher.dtype says" in shown.stdout
    potstill("run", recipe, "--out", run, *changes, check=None)
    page = (run / "report/report.html").read_text()
    assert "The teacher answers in bfloat16, as its weights are stored, as teacher.dtype says." in page
    measured = record(run, "evaluate")["models"]
    assert measured["teacher"]["weights_type"] == "bfloat16" and measured["student"]["weights_type"] == "float32"
    # Answers of another type are other lessons, and other answers to be judged by.
    assert potstill("run", recipe, "--out", run, *changes, check=None).stderr.count(": started") == 0
    changes[changes.index("teacher.dtype=bfloat16")] = "teacher.dtype=float16"
    again = stages_that_worked(potstill("run", recipe, "--out", run, *changes, check=None).stderr)
    assert {"train/student", "evaluate"} <= again and "adapt" not in again


def test_a_run_with_a_classifier_in_half_precision(project: Path, teacher_folder: Path) -> None:
    """The student is trained in float32, whatever type its teacher came in."""
    in_type(teacher_folder, project / "half", torch.float16)
    recipe, run = project / "recipe.yaml", project / "run"
    settings = ["teacher.model=half", "label.precision=auto", "teacher.dtype=float16", "train.epochs=1"]
    changes = [argument for each in [*settings, "adapt.epochs=2"] for argument in ("--set", each)]
    potstill("run", recipe, "--out", run, *changes, check=None)
    for name in ("adapt", "train/student", "train/baseline"):
        config = json.loads((run / name / "model/config.json").read_text())
        assert config["dtype"] == "float32", name
    manifest = json.loads((run / "label/teacher/logits/manifest.json").read_text())
    assert manifest["source"]["weights"] == "float16"
