"""Of several teachers one is in memory at a time while they are adapted and label."""

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from potstill.pipeline import run_recipe
from potstill.recipe.yaml_file import load_recipe
from potstill.runtimes.ensemble import EnsemblePredictor
from potstill.runtimes.folder import ModelFolder
from potstill.runtimes.predictor import Predictor
from potstill.runtimes.transformers import TransformersPredictor
from potstill.stages.inputs import read_inputs
from potstill.tasks.causal_lm import CausalLM
from potstill.tasks.text_classification import TextClassification
from potstill.teachers import Mixture


class Residents:
    """The models that a task has loaded and that are still there."""

    def __init__(self, task: type[Any], patched: pytest.MonkeyPatch) -> None:
        self.most, self.loaded = 0, 0
        self._there: weakref.WeakSet[PreTrainedModel] = weakref.WeakSet()
        load = task.load_model

        def watched(*given: Any, **more: Any) -> PreTrainedModel:
            gc.collect()
            model = load(*given, **more)
            self._there.add(model)
            self.loaded += 1
            self.most = max(self.most, len(self._there))
            return model

        patched.setattr(task, "load_model", watched)


def with_two_teachers(project: Path) -> list[str]:
    """The settings of a recipe in which its teacher is there under two names."""
    line = next(line for line in (project / "recipe.yaml").read_text().splitlines() if line.startswith("teacher:"))
    folder = line.split('"')[1]
    return [f"teacher={{kind: mixture, of: {{one: {{model: '{folder}'}}, other: {{model: '{folder}'}}}}}}"]


def test_classifiers_label_one_after_the_other(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = Residents(TextClassification, monkeypatch)
    settings = [*with_two_teachers(project), "adapt.epochs=0.5"]
    run_recipe(load_recipe(project / "recipe.yaml", settings), project, project / "run", until="label")
    assert (there.loaded, there.most) == (4, 1)


def test_chat_models_label_one_after_the_other(chat_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = Residents(CausalLM, monkeypatch)
    settings = [*with_two_teachers(chat_project), "adapt=null", "label.max_kl=null"]
    settings += ["losses=[{kind: soft_targets}, {kind: hidden_states}]", "label.features=stored"]
    run_recipe(load_recipe(chat_project / "recipe.yaml", settings), chat_project, chat_project / "run", until="label")
    # Each for its distributions, and the lead for its features.
    assert (there.loaded, there.most) == (3, 1)


def test_heads_answer_one_after_the_other(project: Path, teacher_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is released before the next is loaded, and what it answered is known from then on."""
    recipe = load_recipe(project / "recipe.yaml", with_two_teachers(project))
    inputs = read_inputs(recipe, project)
    rows = inputs.splits["test"].rows
    encoded = inputs.encoded(recipe, rows)
    there = Residents(TextClassification, monkeypatch)
    members: dict[str, Predictor] = {
        name: TransformersPredictor(ModelFolder(teacher_folder), recipe.task, inputs.tokenizer, torch.device("cpu"), 8)
        for name in recipe.teacher.members
    }
    assert isinstance(recipe.teacher, Mixture)
    together = EnsemblePredictor(recipe.teacher, members, recipe.task, rows)
    outputs = together.outputs(encoded, lambda count: None)
    alone = members["other"].outputs(encoded, lambda count: None)
    assert np.allclose(softmax(outputs), softmax(alone), atol=1e-6)
    assert (there.loaded, there.most) == (2, 1)


def softmax(logits: Any) -> Any:
    return torch.from_numpy(logits).softmax(dim=-1).numpy()
