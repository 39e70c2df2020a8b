"""A classifier that gives its distributions alone, and neither hidden states nor weights: as one behind a server."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from potstill.capabilities import Capability
from potstill.labels import LabelStore
from potstill.pipeline import run_recipe
from potstill.recipe.yaml_file import load_recipe
from potstill.runtimes import RUNTIMES, Runtime
from potstill.runtimes.folder import ModelFolder
from potstill.runtimes.transformers import TransformersPredictor
from potstill.signals import Batch, Signals
from potstill.stages import label, opened_teachers
from potstill.tasks import TextClassification
from potstill.teachers import PretrainedTeacher
from potstill.training.metrics import read_metrics
from tests.conftest import CLASSES

GIVES = frozenset({Capability.DISTRIBUTION, Capability.CONFIGURATION, Capability.STILLNESS})


class Served(TransformersPredictor):
    """Answers by the token ids that it is shown, and has no model to load."""

    gives = GIVES

    @property
    def model(self) -> Any:
        raise AssertionError("a teacher without weights was loaded")

    def forward(self, batch: Batch) -> Signals:
        assert isinstance(self._task, TextClassification)
        return self._task.problem.signals(outputs(batch.inputs["input_ids"], 1 if self._task.means else len(CLASSES)))


def outputs(ids: Tensor, count: int) -> Tensor:
    """A few numbers for each row, far from zero, of its tokens without their padding."""
    return torch.stack([(ids * (number + 3) % 7 * (ids > 0)).sum(dim=1) / 4 + 90 for number in range(count)], dim=1)


def open_predictor(folder: ModelFolder, task: Any, tokenizer: Any, device: Any, batch_size: int, _: Any) -> Served:
    return Served(folder, task, tokenizer, device, batch_size)


@pytest.fixture(params=["single_label_classification", "regression"])
def served(
    request: pytest.FixtureRequest, project: Path, spelling_teacher_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, list[str]]:
    """A project whose teacher is served, and changes of its recipe: the student begins from random weights."""
    numbers = request.param == "regression"
    if numbers:
        for path in (project / "data").glob("*.jsonl"):
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            for row in rows:
                row["label"] = row["label"] and 100.0 + len(row["text"])
            path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    task = TextClassification(max_length=24, problem_type=request.param)
    # Its files say what its classes are, and how texts are read.
    model = task.load_model(str(spelling_teacher_folder), ["label"] if numbers else sorted(CLASSES))
    model.save_pretrained(project / "teacher")
    task.load_tokenizer(str(spelling_teacher_folder)).save_pretrained(project / "teacher")

    def refuse(*_: object) -> None:
        raise AssertionError("a teacher without weights was loaded")

    for module in (label, opened_teachers):
        monkeypatch.setattr(module, "load_teacher", refuse)
    monkeypatch.setattr(PretrainedTeacher, "gives", property(lambda self: GIVES))
    monkeypatch.setattr(PretrainedTeacher, "runtime", "served")
    monkeypatch.setitem(RUNTIMES, "served", Runtime(__name__, "potstill.runtimes.transformers_timing"))
    return project, [
        f"task.problem_type={request.param}",
        f"teacher.model={project / 'teacher'}",
        "adapt=null",
        "data.adapt=null",
        "student.init={kind: random}",
        "student.vocabulary={kind: trimmed}",
        "train.epochs=1",
        "train.baseline=false",
    ]


def test_its_outputs_are_stored_and_taught_as_they_are(served: tuple[Path, list[str]]) -> None:
    """In the unit of the labels, of its own token ids; asked in each step, it teaches what was stored of it."""
    project, changes = served
    losses = []
    for mode in ("stored", "online"):
        recipe = load_recipe(project / "recipe.yaml", [*changes, f"label.mode={mode}"])
        run_recipe(recipe, project, project / mode, until="train")
        steps = read_metrics(project / mode / "train/student/metrics.jsonl")
        losses.append([step["loss"] for step in steps if "loss" in step])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and len(losses[0]) > 5
    store = LabelStore(project / "stored/label/teacher/logits")
    tokenizer = TextClassification().load_tokenizer(str(project / "teacher"))
    rows = [json.loads(line) for line in (project / "data/train.jsonl").read_text().splitlines()]
    texts = tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")["input_ids"]
    stored = store.logits([row["id"] for row in rows])
    assert np.array_equal(stored, outputs(texts, stored.shape[1]).numpy())
