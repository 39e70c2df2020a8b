"""The recipes that come with a project, as files of this package."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from potstill.run_dir import write_text


def write_recipes(folder: Path, sources: Mapping[str, str]) -> None:
    """Write each recipe under its name in the project. Last of all, so that a folder with a recipe has its data."""
    for name, source in sources.items():
        text = resources.files("potstill.projects").joinpath(source).read_text(encoding="utf-8")
        write_text(folder / name, text)
