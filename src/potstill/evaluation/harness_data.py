"""The data of task files that lie on this machine: seen from the file that names them, and told apart by content."""

import glob
import os
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from potstill.errors import RecipeError
from potstill.run_dir import file_digest

READERS = ("json", "csv", "parquet", "arrow", "text")
"""Of `datasets`, which take files by their paths."""
PICKLES = "pandas"
"""One whose files are Python."""
REMOTE = ("http://", "https://", "hf://")

LocalData = Mapping[str, list[str]]
"""The files of each split, by whole paths, or the addresses of what lies elsewhere."""


def local_data(where: str, path: Path, config: Mapping[str, Any], folder: Path, *, trusted: bool) -> LocalData | None:
    """The files that a task reads; None where its data set is one of a hub.

    `folder` is that of the file which gave `dataset_kwargs`.

    Raises:
        RecipeError: there are none, or they could change without being noticed.
    """
    import datasets.packaged_modules  # a second, which recipes without a task file need not wait

    reader = config.get("dataset_path")
    if not isinstance(reader, str):
        return None
    if reader in READERS or (trusted and reader == PICKLES):
        return _files(f"{where}: {path}", config.get("dataset_kwargs"), folder)
    if reader in {each.name for each in pkgutil.iter_modules(datasets.packaged_modules.__path__)}:
        raise RecipeError(f"{where}: {path} has dataset_path: {reader}. Of local files, name one of {_listed()}.")
    if reader.startswith((".", "/", "~")) or (folder / reader).is_dir() or Path(reader).is_dir():
        raise RecipeError(
            f"{where}: {path} has dataset_path: {reader}, which is a folder. Name its reader, one of {_listed()}, and "
            "the folder as data_dir in dataset_kwargs."
        )
    return None


def located(config: Mapping[str, Any], data: LocalData | None) -> dict[str, Any]:
    """A task whose data are read from where they lie, wherever a run is started."""
    if data is None:
        return dict(config)
    arguments = {name: value for name, value in config["dataset_kwargs"].items() if name != "data_dir"}
    # A path is taken for a pattern once more.
    files = {
        split: [each if each.startswith(REMOTE) else glob.escape(each) for each in found]
        for split, found in data.items()
    }
    return {**config, "dataset_kwargs": {**arguments, "data_files": files}}


def digests(data: LocalData | None) -> dict[str, list[str]]:
    """What is in the files of each split."""
    return {
        split: [each if each.startswith(REMOTE) else file_digest(Path(each)) for each in found]
        for split, found in (data or {}).items()
    }


def _listed() -> str:
    return ", ".join(READERS)


def _files(where: str, arguments: Any, folder: Path) -> LocalData:
    """As `datasets` finds them, but from the folder."""
    from datasets.data_files import get_data_patterns, sanitize_patterns

    given = arguments if isinstance(arguments, dict) else {}
    named, below = given.get("data_files"), given.get("data_dir")
    if named is None and below is None:
        raise RecipeError(f"{where} names no data. Give data_files in dataset_kwargs.")
    base = glob.escape(str(folder if below is None else folder / Path(str(below)).expanduser()))
    try:
        patterns = get_data_patterns(base) if named is None else sanitize_patterns(named)
        found = {
            str(split): [file for each in listed for file in _matching(where, str(each), base)]
            for split, listed in patterns.items()
        }
        if not all(found.values()):
            raise FileNotFoundError
    except FileNotFoundError:
        shown = below if named is None else named
        raise RecipeError(f"{where} names data that are not there: {shown!r}, seen from {folder}.") from None
    except (ValueError, TypeError, AttributeError):
        raise RecipeError(
            f"{where} has data_files that are no paths: expected one, a list, or those of splits."
        ) from None
    return found


def _matching(where: str, pattern: str, base: str) -> list[str]:
    from datasets.data_files import resolve_pattern

    if pattern.startswith(REMOTE):
        return [pattern]
    if "://" in pattern or "::" in pattern:
        raise RecipeError(f"{where} reads {pattern}, which can change unnoticed. Name the file itself.")
    try:
        found: list[str] = resolve_pattern(os.path.normpath(Path(base) / pattern), "")
    except FileNotFoundError:
        # Of several patterns, some may be for files of another name.
        if not glob.has_magic(pattern):
            raise
        return []
    return found
