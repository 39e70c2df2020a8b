"""Runs whose teachers and students are ModernBERT and DeBERTa, through the command line."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PretrainedConfig,
)

from potstill.models import FAMILIES, Size
from tests.commands import potstill, record
from tests.conftest import make_project
from tests.tagged_project import make_tagged_project
from tests.unit.test_models import tiny_config

MODELS = {"text": AutoModelForSequenceClassification, "tags": AutoModelForTokenClassification}


def teacher_of(folder: Path, tokenizer: Path, family: str, task: str) -> Path:
    """A random teacher of the family, which reads with another one's tokenizer."""
    shutil.copytree(tokenizer, folder)
    own: PretrainedConfig = AutoConfig.from_pretrained(tokenizer)
    named = {name: value for name, value in own.to_dict().items() if name.endswith("_token_id")}
    sizes = {Size.WIDTH: 32, Size.INTERMEDIATE: 64, Size.HEAD: 8}
    known = FAMILIES[family].values({size: value for size, value in sizes.items() if size in FAMILIES[family].sizes})
    rest = {"vocab_size": own.vocab_size, "max_position_embeddings": 64, "initializer_range": 0.1}
    config = tiny_config(FAMILIES[family], **named | known | rest)
    MODELS[task].from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.long
@pytest.mark.parametrize(
    ("family", "task", "changes"),
    [
        ("modernbert", "text", ["adapt.frozen_layers=1"]),
        ("modernbert", "tags", ["student.init={kind: copy, width: pruned}"]),
        ("deberta-v2", "tags", ["adapt.frozen_layers=1"]),
        ("deberta", "text", ["student.init={kind: copy, width: pruned, layers: block_influence}"]),
    ],
)
def test_a_teacher_is_adapted_and_its_student_trained_on_features_too(
    family: str, task: str, changes: list[str], tmp_path: Path, teacher_folder: Path
) -> None:
    teacher = teacher_of(tmp_path / "teacher", teacher_folder, family, task)
    project = (make_project if task == "text" else make_tagged_project)(tmp_path, teacher)
    losses = ["{kind: soft_targets, temperature: 2}", "{kind: hard_labels}", "{kind: hidden_states}"]
    losses += ["{kind: attention}", "{kind: relations, heads: 4}"] if FAMILIES[family].without_maps is None else []
    changes = [*changes, f"losses=[{', '.join(losses)}]", "train.baseline=false", "adapt.epochs=4"]
    changes += ["gate={allow_weak_teacher: true, min_retention: null}", "student.width=3/4"]
    out = project / "out"
    potstill("run", project / "recipe.yaml", "--out", out, *(part for each in changes for part in ("--set", each)))
    evaluation, plan = record(out, "evaluate"), record(out, "plan")
    assert plan["student"]["family"] == family and plan["student"]["layers"] == 2
    lines = [json.loads(line) for line in (out / "train/student/metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "step"]
    assert losses[-1] < losses[0]
    folder = out / "export/safetensors"
    student, info = MODELS[task].from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    parameters = sum(parameter.numel() for parameter in student.parameters())
    assert parameters == plan["student"]["parameters"] == evaluation["models"]["student"]["num_parameters"]
    if family == "modernbert":
        assert json.loads((folder / "config.json").read_text())["layer_types"] == ["full_attention", "full_attention"]
