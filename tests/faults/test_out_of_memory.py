"""Runs that go on with a smaller batch after memory ran out, and runs that an earlier version made: nothing is done
again that is done."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from potstill.labels import LabelStore
from potstill.labels.verify import faults
from potstill.pipeline import run_recipe
from potstill.progress import Progress
from potstill.recipe.yaml_file import load_recipe
from potstill.run_dir import fingerprint, folder_files
from potstill.signals import Batch, Signals
from potstill.teachers import FrozenTeacher
from potstill.training import loop


class Lines(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)

    def of(self, stage: str) -> list[str]:
        return [line.removeprefix(f"{stage}: ") for line in self.lines if line.startswith(f"{stage}: ")]


class Asked:
    """Counts the rows that a frozen teacher is asked about, and runs out of memory where it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ids: list[str] = []
        self.sizes: list[int] = []
        self.patience: int | None = None
        real = FrozenTeacher.__call__

        def ask(teacher: FrozenTeacher, batch: Batch) -> Signals:
            if self.patience is not None and len(self.sizes) >= self.patience:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
            self.ids.extend(batch.ids)
            self.sizes.append(len(batch.ids))
            return real(teacher, batch)

        monkeypatch.setattr(FrozenTeacher, "__call__", ask)

    def begin(self, patience: int | None = None) -> None:
        self.ids, self.sizes, self.patience = [], [], patience


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(monkeypatch)


def run(project: Path, out: str, *changes: str, until: str = "label") -> Lines:
    lines = Lines()
    recipe = load_recipe(project / "recipe.yaml", ["adapt.epochs=1", "train.epochs=2", *changes])
    run_recipe(recipe, project, project / out, lines, until=until)
    return lines


def record(project: Path, stage: str) -> dict[str, Any]:
    return json.loads((project / stage / "result.json").read_text())


STORED = ("label.features=stored", "losses=[{kind: soft_targets, temperature: 1}, {kind: hidden_states}]")


@pytest.mark.parametrize("kind", ["classes", "chat"])
def test_labelling_goes_on_in_smaller_batches_and_asks_only_for_what_is_missing(
    kind: str, request: pytest.FixtureRequest, asked: Asked
) -> None:
    """All logits of rows; and positions with hidden states beside them, of which the fit must stay the same."""
    project: Path = request.getfixturevalue("project" if kind == "classes" else "chat_project")
    more = ("label.batch_size=8", "label.batches_per_shard=2", *(STORED if kind == "chat" else ()))
    stores = ["label/teacher/logits", *(["label/teacher/hidden_states"] if kind == "chat" else [])]
    run(project, "whole", *more)
    rows, fitted = len(asked.ids), sum(asked.sizes) - sum(record(project, f"whole/{each}")["rows"] for each in stores)
    asked.begin(len(range(0, fitted, 8)) + 5)
    with pytest.raises(torch.OutOfMemoryError):
        run(project, "broken", *more)
    done = {path.name: path.read_bytes() for path in (project / "broken" / stores[0]).glob("shard-*.arrow")}
    assert len(done) == 2, "two of two batches of eight"
    left = rows - fitted - 32
    if kind == "chat":
        # Out of memory again, when two shards of two batches of three are there of the hidden states.
        of_logits = record(project, f"whole/{stores[0]}")["rows"] - 32
        asked.begin(len(range(0, of_logits, 3)) + 5)
        with pytest.raises(torch.OutOfMemoryError):
            run(project, "broken", *more, "label.batch_size=3")
        assert len(asked.ids) == of_logits + 15
        left -= of_logits + 12
    asked.begin()
    size = 3 if kind == "classes" else 2
    lines = run(project, "broken", *more, f"label.batch_size={size}")
    said = "goes on from what is there, though label.batch_size "
    assert lines.of(stores[-1])[0].startswith(f"{said}{'8 -> 3' if kind == 'classes' else '3 -> 2'}: ")
    # The fit is not asked for again, nor any row of a shard.
    assert len(asked.ids) == left and max(asked.sizes) == size
    for store in stores:
        whole, broken = (record(project, f"{out}/{store}") for out in ("whole", "broken"))
        assert (whole["rows"], whole["positions"]) == (broken["rows"], broken["positions"])
        assert not list(faults(project / "broken" / store))
    for name, content in done.items():
        assert (project / "broken" / stores[0] / name).read_bytes() == content
    if kind == "classes":
        left, right = (LabelStore(project / out / stores[0]) for out in ("whole", "broken"))
        ids = asked.ids
        np.testing.assert_allclose(left.logits(ids), right.logits(ids), rtol=1e-4, atol=1e-5)
    # What is finished stays, whatever the size is then.
    asked.begin()
    again = run(project, "broken", *more, "label.batch_size=5", "label.batches_per_shard=7")
    assert asked.ids == []
    for store, done_in in zip(stores, [3, size], strict=False):
        assert again.of(store) == [
            f"kept, though label.batch_size {done_in} -> 5, label.batches_per_shard 2 -> 7: the same work in other "
            "pieces, so last bits and random draws can differ"
        ]


@pytest.mark.parametrize("stage", ["adapt", "train/student"])
def test_training_goes_on_from_its_checkpoint_in_smaller_pieces(
    project: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = stage.partition("/")[0]
    real, steps = loop._step, []

    def counted(job: loop.Job, *rest: Any) -> dict[str, float]:
        if job.name == stage:
            steps.append(rest[2])
            if len(steps) == 6 and job.settings.micro_batch_size == 16:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return real(job, *rest)

    monkeypatch.setattr(loop, "_step", counted)
    every = f"{section}.evaluate_every=2"
    larger = (every, f"{section}.micro_batch_size=16")
    with pytest.raises(torch.OutOfMemoryError):
        run(project, "run", *larger, until="train")
    smaller = (every, f"{section}.micro_batch_size=3", f"{section}.keep_checkpoints=1")
    steps.clear()
    lines = run(project, "run", *smaller, until="train")
    changed = f"{section}.keep_checkpoints 2 -> 1, {section}.micro_batch_size 16 -> 3"
    assert lines.of(stage)[0].startswith(f"goes on from what is there, though {changed}: the same work")
    assert "resumed from step-00000004" in lines.of(stage) and steps[0] == 4
    made = record(project, f"run/{stage}")
    steps.clear()
    again = run(project, "run", *larger, until="train")
    assert again.of(stage)[0].startswith("kept, though ") and steps == []
    assert record(project, f"run/{stage}") == made


def rewritten(value: Any, change: Callable[[str, Any], Any], where: str = "") -> Any:
    if isinstance(value, dict):
        return {key: rewritten(inner, change, f"{where}.{key}" if where else key) for key, inner in value.items()}
    return change(where, value)


def as_an_earlier_version_left_it(out: Path) -> Iterator[str]:
    """Precision unresolved in inputs and manifests, and stores of format 2; yields the stages where it is."""

    def earlier(name: str, value: Any) -> Any:
        if name == "format":
            return 2
        return "auto" if name.endswith("precision") and value else value

    for path in sorted(out.rglob("inputs.json")):
        inputs = json.loads(path.read_text())["inputs"]
        old = rewritten(inputs, earlier)
        if old == inputs:
            continue
        path.write_text(json.dumps({"fingerprint": fingerprint(old), "inputs": old}))
        result = json.loads((path.parent / "result.json").read_text())
        (path.parent / "result.json").write_text(
            json.dumps(result | {"fingerprint": fingerprint(old), "digest_of_record": ""})
        )
        manifest = path.parent / "manifest.json"
        if manifest.exists():
            content = json.loads(manifest.read_text())
            content["source"]["precision"] = "auto"
            content["format"] = 2
            manifest.write_text(json.dumps(content))
            (path.parent / "manifest.json.sha256").write_text(
                folder_files(manifest.parent, relative_to=out)[manifest.relative_to(out).as_posix()]
            )
        yield path.parent.relative_to(out).as_posix()


def test_a_run_of_a_version_that_did_not_resolve_precision_goes_on(project: Path, asked: Asked) -> None:
    auto = ("adapt.precision=auto", "label.precision=auto", "train.precision=auto")
    run(project, "run", *auto, until="train")
    before = {stage: record(project, f"run/{stage}") for stage in ("adapt", "label/teacher/logits", "train/student")}
    assert json.loads((project / "run/label/teacher/logits/manifest.json").read_text())["source"]["precision"] == (
        "float32"
    ), "of a run without an accelerator"
    stages = set(as_an_earlier_version_left_it(project / "run"))
    assert stages == {"adapt", "label/teacher/logits", "train/student", "train/baseline"}
    for out in (auto, ("adapt.precision=float32", "label.precision=float32", "train.precision=float32")):
        asked.begin()
        lines = run(project, "run", *out, until="train")
        assert all(lines.of(stage) == ["kept"] for stage in stages) and asked.ids == []
    after = {stage: record(project, f"run/{stage}") for stage in before}
    assert {stage: made["seconds"] for stage, made in after.items()} == {
        stage: made["seconds"] for stage, made in before.items()
    }
    # A store that was made so still serves a training that is not done yet.
    lines = run(project, "run", *auto, "train.epochs=1", until="train")
    assert lines.of("label/teacher/logits") == ["kept"] and lines.of("train/student")[1] == "started"


def test_a_run_in_bfloat16_is_not_that_of_a_machine_without_it(project: Path) -> None:
    run(project, "run", "label.precision=bfloat16")
    lines = run(project, "run", "label.precision=auto")
    assert any("runs again" in line and 'precision "bfloat16" -> "float32"' in line for line in lines.lines)


def test_the_record_of_a_training_has_the_digest_of_its_metrics(project: Path) -> None:
    run(project, "run", until="train")
    for stage in ("adapt", "train/student"):
        files = record(project, f"run/{stage}")["files"]
        there = folder_files(project / "run" / stage, relative_to=project / "run" / stage)
        assert there.keys() - files.keys() == {"inputs.json", "result.json"}
        assert all(there[name] == digest for name, digest in files.items())
    assert load_file(project / "run/train/student/model/model.safetensors")
