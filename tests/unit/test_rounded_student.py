"""A student that is trained for an artefact computes with the artefact's numbers while it is."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from potstill.exporters.rounding import int8_by_channel, int8_of_all
from potstill.measure import speed
from potstill.pipeline import run_recipe
from potstill.recipe.yaml_file import load_recipe
from potstill.stages import rounded_student


class Seen(Exception):
    """The training that was looked at need not be finished."""


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    canned = {"latencies_ms": [1.0] * 8, "throughput_per_s": 1.0, "peak_memory_bytes": 1}
    canned |= {"floor_memory_bytes": 0, "load_ms": 1.0}
    monkeypatch.setattr(speed, "_in_fresh_process", lambda request: canned)
    yield


def test_it_reads_rounded_weights_and_learns_from_its_teacher_alone(
    project: Path, monkeypatch: pytest.MonkeyPatch, no_processes: None
) -> None:
    jobs: list[Any] = []

    def fit(job: Any, *others: Any) -> Any:
        jobs.append(job)
        modules = [each for each in job.model.modules() if isinstance(each, nn.Linear | nn.Embedding)]
        assert len(modules) > 4
        for module in modules:
            whole = module.parametrizations.weight.original
            how = int8_by_channel if isinstance(module, nn.Linear) else int8_of_all
            assert torch.equal(module.weight, how(whole.detach())) and not torch.equal(module.weight, whole)
        raise Seen

    monkeypatch.setattr(rounded_student, "fit", fit)
    settings = ["train.epochs=1", "export=[{kind: onnx, distil: {steps: 9, learning_rate: 3e-4}}]"]
    recipe = load_recipe(project / "recipe.yaml", [*settings, "gate={allow_weak_teacher: true, min_retention: 0.001}"])
    with pytest.raises(Seen):
        run_recipe(recipe, project, project / "run")
    (job,) = jobs
    (loss,) = job.loss.losses
    assert (loss.name, loss.weight_at(0.5), loss.settings_at(0.5)["temperature"]) == ("soft_targets", 1.0, 1.0)
    assert job.total_steps == 9 and job.settings.learning_rate == 3e-4 and job.settings.evaluate_every == 3
