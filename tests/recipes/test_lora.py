"""Whole runs through LoRA: teachers adapted and students trained with narrow matrices beside their weights."""

import json
import re
import signal
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from tests.commands import potstill, record, stages_that_worked, start, wait_for_checkpoint
from tests.conftest import make_chat_project, make_project
from tests.recipes.test_real_language_models import SHORT, keep_first

RECIPES = Path(__file__).parents[2] / "recipes"
LORA = [
    *("--set", "adapt.lora={rank: 8}", "--set", "adapt.learning_rate=5e-3"),
    *("--set", "train.lora={rank: 4, dropout: 0.1}", "--set", "train.learning_rate=3e-2"),
    # Embeddings that were drawn and stay as they are leave little to learn.
    *("--set", "gate.allow_weak_teacher=true", "--set", "adapt.epochs=8"),
]


def outputs(model: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        found = model.eval()(input_ids=torch.arange(5, 13)[None]).logits
    assert isinstance(found, Tensor)
    return found


def with_adapter(base: PreTrainedModel, folder: Path) -> Tensor:
    with warnings.catch_warnings():
        # Of what peft asks of transformers, and of a file that it leaves open.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", ResourceWarning)
        return outputs(PeftModel.from_pretrained(base, str(folder)))


def metrics(stage: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]


def tensors(folder: Path) -> dict[str, Tensor]:
    with safe_open(folder / "model.safetensors", "pt") as weights:
        return {name: weights.get_tensor(name) for name in list(weights.keys())}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path) -> Path:
    project = make_project(tmp_path_factory.mktemp("lora"), teacher_folder)
    potstill("run", project / "recipe.yaml", "--out", project / "run", *LORA)
    return project


def test_a_run_leaves_merged_models_and_their_adapters_beside_them(finished: Path, teacher_folder: Path) -> None:
    run = finished / "run"
    auto: Any = AutoModelForSequenceClassification
    losses = [line["validation_loss"] for line in metrics(run / "adapt") if line["kind"] == "validation"]
    assert min(losses) < 0.95 * losses[0]
    bases = {"adapt": teacher_folder, "train/student": run / "train/student/base"}
    for stage, folder in (bases | {"train/baseline": run / "train/student/base"}).items():
        said = record(run, stage)["lora"]
        assert said["modules_to_save"] == ["classifier"] and said["dtype"] == "float32"
        assert 0 < said["trained_parameters"] < said["parameters"]
        assert said["merge_error"] < 1e-5
        names = set(tensors(run / stage / "model"))
        assert names == set(tensors(folder)) and not any("lora" in name for name in names)
        base = auto.from_pretrained(folder, num_labels=3, ignore_mismatched_sizes=True)
        merged = auto.from_pretrained(run / stage / "model")
        torch.testing.assert_close(with_adapter(base, run / stage / "adapter"), outputs(merged), rtol=1e-4, atol=1e-4)
        files = record(run, stage)["files"]
        assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"} <= set(files)
    planned = record(run, "plan")
    assert planned["lora"].items() <= record(run, "train/student")["lora"].items()
    assert planned["adapt_lora"].items() <= record(run, "adapt")["lora"].items()


def test_the_base_of_an_adapter_is_named_without_a_path_of_this_machine(finished: Path, teacher_folder: Path) -> None:
    named = {}
    for stage in ("adapt", "train/student", "train/baseline"):
        said = json.loads((finished / "run" / stage / "adapter/adapter_config.json").read_text())
        named[stage] = said["base_model_name_or_path"]
        assert said["task_type"] == "SEQ_CLS" and str(finished) not in json.dumps(said)
    assert named["adapt"] == teacher_folder.name
    for stage in ("train/student", "train/baseline"):
        assert (finished / "run" / stage / "adapter" / named[stage]).resolve() == (
            finished / "run/train/student/base"
        ).resolve()


def test_embeddings_and_norms_stay_as_they_were(finished: Path) -> None:
    before, after = (tensors(finished / "run/train/student" / name) for name in ("base", "model"))
    still = {name for name, tensor in before.items() if torch.equal(tensor, after[name])}
    assert still == {name for name in before if "embeddings" in name or "LayerNorm" in name or "bias" in name} - {
        "classifier.bias"
    }


def test_check_and_report_say_how_much_is_trained(finished: Path) -> None:
    lora = record(finished / "run", "train/student")["lora"]
    count = f"{lora['trained_parameters']:,} of {lora['parameters']:,} parameters are trained"
    shown = potstill("check", finished / "recipe.yaml", *LORA).stdout
    assert f"LoRA of rank 4 beside 13 linear layers, and classifier in full: {count}" in shown
    assert "LoRA of rank 8 beside 25 linear layers" in shown
    for name in ("report.html", "MODEL_CARD.md"):
        assert count in (finished / "run/report" / name).read_text()


def test_the_same_command_keeps_everything_and_another_rank_trains_again(finished: Path) -> None:
    again = potstill("run", finished / "recipe.yaml", "--out", finished / "run", *LORA)
    assert stages_that_worked(again.stderr) == set()
    assert "runs again" not in again.stderr


def test_names_that_no_layer_has_are_refused_with_those_that_there_are(project: Path) -> None:
    done = potstill("check", project / "recipe.yaml", "--set", "train.lora={target_modules: [q_proj]}", check=1)
    assert "train.lora.target_modules: no linear layer is called 'q_proj'; there are dense, key, query, value" in (
        done.stderr.replace("\n", " ")
    )
    assert "Traceback" not in done.stderr


@pytest.mark.long
def test_a_run_that_is_killed_goes_on_to_the_same_models(project: Path) -> None:
    potstill("train", project / "recipe.yaml", "--out", project / "whole", *LORA)
    for stage in ("adapt", "train/student"):
        killed = start("train", project / "recipe.yaml", "--out", project / "broken", *LORA)
        wait_for_checkpoint(killed, project / "broken" / stage)
        killed.send_signal(signal.SIGKILL)
        killed.result()
    potstill("train", project / "recipe.yaml", "--out", project / "broken", *LORA)
    for stage in ("adapt", "train/student", "train/baseline"):
        for name in ("model/model.safetensors", "adapter/adapter_model.safetensors"):
            one, other = (project / run / stage / name for run in ("whole", "broken"))
            assert one.read_bytes() == other.read_bytes()


@pytest.mark.long
@pytest.mark.parametrize(
    "changes",
    [
        ["adapt.frozen_layers=2"],
        ["teacher={kind: generation, generations: 2, start: {model: TEACHER}}", "train.snapshots=[0.5]"],
        [
            "label.mode=online",
            "losses=[{kind: soft_targets}, {kind: hidden_states}, {kind: attention, heads: learned}]",
        ],
        ["task.problem_type=regression", "gate={min_retention: null, max_drop_points: null, allow_weak_teacher: true}"],
    ],
    ids=["frozen layers", "generations", "features", "numbers"],
)
def test_it_goes_with_everything_else(project: Path, teacher_folder: Path, changes: list[str]) -> None:
    if "regression" in changes[0]:
        for path in (project / "data").iterdir():
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            classes = {"fruit": 11.0, "metal": 15.0, "beast": 19.0, None: None}
            path.write_text("".join(json.dumps(row | {"label": classes[row["label"]]}) + "\n" for row in rows))
    said = [part for each in changes for part in ("--set", each.replace("TEACHER", str(teacher_folder)))]
    potstill("run", project / "recipe.yaml", "--out", project / "run", *LORA, *said)
    assert record(project / "run", "evaluate")["models"]["student"]
    for stage in ("adapt", "train/student"):
        assert record(project / "run", stage)["lora"]["merge_error"] < 1e-4
        assert not any("lora" in name for name in tensors(project / "run" / stage / "model"))


def of_recipe(project: Path, teacher: Path) -> Path:
    """recipes/lora_chat.yaml beside the data of a chat project, with its tiny teacher."""
    text = (RECIPES / "lora_chat.yaml").read_text().replace("../chat/", "")
    recipe = project / "lora_chat.yaml"
    recipe.write_text(re.sub(r"pkg:\S*gguf", str(teacher), text))
    return recipe


@pytest.mark.long
def test_the_recipe_of_a_chat_model(tmp_path: Path, chat_teacher_folder: Path) -> None:
    """recipes/lora_chat.yaml, on a tiny teacher whose embeddings are its output layer."""
    project = make_chat_project(tmp_path, chat_teacher_folder)
    recipe = of_recipe(project, chat_teacher_folder)
    changes = [
        "task.max_length=64",
        "data.adapt=data/adapt.jsonl",
        "data.near_copies=null",
        # Its embeddings were drawn.
        "adapt.lora.modules_to_save=[embed_tokens]",
        "adapt.epochs=12",
        "adapt.learning_rate=5e-3",
        "adapt.precision=float32",
        "label.encoding={kind: low_rank, head: 8, rank: 16}",
        "student={kind: shrunk, layers: 2, width: 32, init: {kind: copy, layers: block_influence}}",
        "train.epochs=8",
        "train.batch_size=4",
        "train.learning_rate=1e-2",
        "train.evaluate_every=10",
        "train.precision=float32",
        "train.baseline=false",
        "evaluate={prompts: 2, rounds: 1, warmup: 1, new_tokens: 4, generations: 1, generation_tokens: 4}",
        "gate={min_retention: null, allow_weak_teacher: true}",
    ]
    run = project / "run"
    potstill("run", recipe, "--out", run, *(part for change in changes for part in ("--set", change)))
    evaluation = record(run, "evaluate")
    assert evaluation["models"]["student"]["kl_mean"] < 0.5 * evaluation["initial_kl_mean"]
    for stage, base in (("adapt", chat_teacher_folder), ("train/student", run / "train/student/base")):
        merged = outputs(AutoModelForCausalLM.from_pretrained(run / stage / "model"))
        loaded = AutoModelForCausalLM.from_pretrained(base)
        torch.testing.assert_close(with_adapter(loaded, run / stage / "adapter"), merged, rtol=1e-4, atol=1e-4)


@pytest.mark.long
def test_a_teacher_in_half_precision_is_held_and_saved_in_it(tmp_path: Path, chat_teacher_folder: Path) -> None:
    """Where computing is in bfloat16, and the checkpoint's weights are numbers of it."""
    narrow = tmp_path / "narrow"
    model = AutoModelForCausalLM.from_pretrained(chat_teacher_folder).to(torch.bfloat16)
    model.save_pretrained(narrow)
    for path in chat_teacher_folder.iterdir():
        if "model.safetensors" not in path.name and path.name != "config.json":
            (narrow / path.name).write_bytes(path.read_bytes())
    project = make_chat_project(tmp_path, narrow)
    changes = ["adapt.lora={rank: 8}", "adapt.learning_rate=2e-2", "adapt.precision=bfloat16"]
    said = [part for change in changes for part in ("--set", change)]
    potstill("adapt", project / "recipe.yaml", "--out", project / "run", *said)
    lora = record(project / "run", "adapt")["lora"]
    assert lora["dtype"] == "bfloat16" and lora["merge_error"] < 0.05
    assert {tensor.dtype for tensor in tensors(project / "run/adapt/model").values()} == {torch.bfloat16}


@pytest.mark.long
def test_the_real_chat_model_is_adapted_and_healed(tmp_path: Path) -> None:
    """recipes/lora_chat.yaml with its own teacher and data, shortened to a minute or two."""
    potstill("init", "support-chat", tmp_path / "chat")
    for name, rows in (("train", 16), ("validation", 3), ("test", 3)):
        keep_first(tmp_path / f"chat/data/{name}.jsonl", rows)
    (tmp_path / "recipes").mkdir()
    recipe = tmp_path / "recipes/lora_chat.yaml"
    recipe.write_text((RECIPES / recipe.name).read_text())
    changes = [*SHORT, "adapt.epochs=2", "student.init.sample=8", "train.baseline=false"]
    said = [part for each in changes for part in ("--set", each)]
    potstill("run", recipe, "--out", tmp_path / "run", *said)
    for stage, width in (("adapt", 16), ("train/student", 64)):
        lora = record(tmp_path / "run", stage)["lora"]
        assert lora["rank"] == width and lora["merge_error"] < 1e-4
    losses = [line["validation_loss"] for line in metrics(tmp_path / "run/adapt") if line["kind"] == "validation"]
    assert losses[-1] < losses[0]
    evaluation = record(tmp_path / "run", "evaluate")
    assert evaluation["models"]["student"]["kl_mean"] < 0.9 * evaluation["initial_kl_mean"]
