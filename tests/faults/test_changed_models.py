"""Models of a run whose files were changed afterwards: no stage works with them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from potstill.errors import ModelError
from potstill.progress import Progress
from potstill.recipe.yaml_file import load_recipe
from potstill.records import AdaptRecord
from potstill.run_dir import RunDir
from potstill.runtimes.folder import ModelFolder, model_digest
from potstill.stages.models import teacher_folder
from tests.commands import potstill, stages_that_worked
from tests.recipes.test_cli import finished, finished_once

__all__ = ["finished", "finished_once"]


def flip_a_weight(path: Path) -> Callable[[], None]:
    """Change the last byte; returns what restores it."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    def restore() -> None:
        path.write_bytes(content)

    return restore


def test_a_folder_knows_whether_its_files_are_those_that_were_written(tmp_path: Path) -> None:
    model = tmp_path / "train/student/model"
    model.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(b"weights")
    folder = ModelFolder(model, digest=model_digest(model))
    folder.require_unchanged()
    restore = flip_a_weight(model / "model.safetensors")
    with pytest.raises(ModelError, match=f"{model}: its files are not those.* remove {model.parent} and run again"):
        folder.require_unchanged()
    restore()
    (model / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(ModelError):
        folder.require_unchanged()
    # What lies elsewhere is known by the digest that it has now.
    ModelFolder(model).require_unchanged()


def test_of_several_teachers_each_folder_has_a_digest_of_its_own(project: Path) -> None:
    members = {
        name: AdaptRecord(adapted=True, location=f"adapt/{name}/model", digest=f"digest of {name}")
        for name in ("one", "two")
    }
    lead = members["two"].model_copy(update={"digest": "digest of both", "members": members})
    recipe, run = load_recipe(project / "recipe.yaml"), RunDir(project / "run", Progress())
    assert teacher_folder(recipe, run, lead).digest == "digest of two"
    assert teacher_folder(recipe, run, members["one"]).digest == "digest of one"


@pytest.mark.long
@pytest.mark.parametrize(
    ("folder", "change", "stage"),
    [
        ("adapt/model", "label.encoding={kind: dense, dtype: float16}", "label/teacher/logits"),
        ("train/baseline/model", "evaluate.latency_rows=9", "evaluate"),
        ("train/student/model", "gate.min_retention=0.02", None),
    ],
)
def test_a_stage_that_reads_a_changed_model_says_so(
    finished: Path, folder: str, change: str, stage: str | None
) -> None:
    recipe, run = finished / "recipe.yaml", finished / "run"
    restore = flip_a_weight(run / folder / "model.safetensors")
    if stage is None:
        (run / "export/result.json").unlink()
    failed = potstill("run", recipe, "--out", run, "--set", change, check=1)
    assert "its files are not those that this run wrote" in failed.stderr and str(run / folder) in failed.stderr
    assert "Traceback" not in failed.stderr
    restore()
    again = potstill("run", recipe, "--out", run, "--set", change)
    assert (stage or "export") in stages_that_worked(again.stderr)
