"""metrics.jsonl and trackers: what training writes down as it goes."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from potstill.errors import RecipeError
from potstill.training.metrics import MetricsFile, open_trackers, read_metrics


def write(path: Path, steps: range, *, from_step: int) -> None:
    with MetricsFile(path, from_step) as metrics:
        for step in steps:
            metrics.log({"kind": "step", "step": step, "loss": 1 / (step + 1)})
        metrics.sync()


def test_lines_after_the_checkpoint_are_cut_and_written_again(tmp_path: Path) -> None:
    write(tmp_path / "whole.jsonl", range(1, 10), from_step=0)
    write(tmp_path / "broken.jsonl", range(1, 8), from_step=0)
    with (tmp_path / "broken.jsonl").open("a") as file:
        file.write('{"kind": "step", "st')
    write(tmp_path / "broken.jsonl", range(5, 10), from_step=4)
    assert (tmp_path / "broken.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_line_that_was_cut_is_not_read(tmp_path: Path) -> None:
    write(tmp_path / "metrics.jsonl", range(1, 3), from_step=0)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "step": 3, "loss": 0.')
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]
    assert read_metrics(tmp_path / "none.jsonl") == []


def test_a_value_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    with MetricsFile(tmp_path / "metrics.jsonl", 0) as metrics, pytest.raises(ValueError, match="not JSON compliant"):
        metrics.log({"step": 1, "loss": float("nan")})


@pytest.mark.parametrize(("package", "where"), [("wandb", {"dir": "FOLDER"}), ("trackio", {})])
def test_a_tracker_gets_each_step_and_is_closed(
    package: str, where: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, ...]] = []
    module: Any = ModuleType(package)
    module.init = lambda **given: calls.append(("init", given))
    module.log = lambda values, *, step: calls.append(("log", values, step))
    module.finish = lambda: calls.append(("finish",))
    monkeypatch.setitem(sys.modules, package, module)
    (tracker,) = open_trackers([package], tmp_path, "student")
    tracker.log({"loss": 0.5}, 7)
    tracker.close()
    expected = {"project": "potstill", "name": "student"} | {key: str(tmp_path) for key in where}
    assert calls == [("init", expected), ("log", {"loss": 0.5}, 7), ("finish",)]


def test_tensorboard_gets_each_value(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tracker,) = open_trackers(["tensorboard"], tmp_path, "student")
    tracker.log({"loss": 0.5}, 7)
    tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(7, 0.5)]


def test_a_tracker_that_is_not_installed_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(RecipeError, match=r"wandb is not installed\. Run: pip install 'potstill\[wandb\]'"):
        open_trackers(["wandb"], tmp_path, "student")
