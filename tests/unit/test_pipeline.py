"""The straight line itself: what each process does before the first stage."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from potstill import pipeline
from potstill.progress import Progress
from potstill.recipe.yaml_file import recipe_of
from potstill.run_dir import Processes, RunDir


@pytest.mark.parametrize("rank", [0, 1])
def test_the_main_process_prepares_the_folder_before_any_process_reads_it(
    rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    class Recording:
        is_main = rank == 0

        def barrier(self) -> None:
            done.append("barrier")

    @contextmanager
    def engine() -> Iterator[Recording]:
        yield Recording()

    @contextmanager
    def run(root: Path, progress: Progress, processes: Processes) -> Iterator[RunDir]:
        done.append("locked")
        yield RunDir(root, progress, processes)

    def stages(*_: Any) -> Iterator[Any]:
        done.append("stages")
        yield from ()

    for name, stand_in in (("start_engine", engine), ("open_run", run), ("stages", stages)):
        monkeypatch.setattr(pipeline, name, stand_in)
    recipe = recipe_of(
        {
            "task": {"kind": "text_classification"},
            "data": {"train": "a", "validation": 0.1, "test": 0.1},
            "teacher": {"model": "b"},
        },
        "test",
    )
    pipeline.run_prepared(lambda run: done.append("prepared"), recipe, tmp_path, tmp_path)
    assert done == ["locked", *(["prepared"] if rank == 0 else []), "barrier", "stages"]
    assert (tmp_path / "recipe.yaml").exists() == (rank == 0)
