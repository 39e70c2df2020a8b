"""Task files of lm-evaluation-harness: read without running what they name, unless the recipe trusts them."""

import difflib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from potstill.errors import RecipeError
from potstill.recipe.harness_settings import HarnessSettings
from potstill.run_dir import file_digest

PACKAGE = "lm_eval"
SUFFIXES = (".yaml", ".yml")
MOST_BYTES = 2**20
"""Of a task file, which is a page or two."""
CODE_KEYS = ("class", "custom_dataset", "use_prompt")
"""Keys whose values are Python, or name files that can hold some."""
BUILT_IN_READERS = ("json", "csv", "parquet", "arrow", "text")
"""Readers of `datasets` that take files by their paths."""


@dataclass(frozen=True)
class HarnessTask:
    """A task as the harness is given it."""

    name: str
    file: Path | None = None
    """None of one that the package knows by its name."""
    digest: str = ""
    """Of the file, of those that it includes and of its local data."""


class _Tagged(Exception):
    """A YAML tag that would run Python."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Of plain values alone."""


def _refuse(loader: Any, suffix: str, node: Any) -> Any:
    raise _Tagged(node.tag)


_Loader.add_multi_constructor("", _refuse)


def harness_tasks(settings: HarnessSettings | None, base: Path) -> tuple[HarnessTask, ...]:
    """The tasks of a recipe; paths are seen from the folder of the recipe.

    Raises:
        RecipeError: the package is not installed, or a file that cannot be read or that would run Python.
    """
    if settings is None:
        return ()
    if find_spec(PACKAGE) is None:
        raise RecipeError(
            "evaluate.harness: the package lm-eval is not installed. Run: pip install 'potstill[harness]'"
        )
    where = {name: f"evaluate.harness.tasks[{number}]" for number, name in enumerate(settings.tasks)}
    files = {name: key for name, key in where.items() if name.endswith(SUFFIXES)}
    found = {name: _task(key, base / name, trusted=settings.trust_remote_code) for name, key in files.items()}
    if names := {name: key for name, key in where.items() if name not in files}:
        _require_known(names)
    return tuple(found.get(name, HarnessTask(name)) for name in settings.tasks)


def _require_known(names: Mapping[str, str]) -> None:
    """That the package has tasks of these names; it reads ten thousand files to know them, which takes seconds."""
    from lm_eval.tasks import TaskManager

    known = TaskManager().all_tasks
    for name, key in names.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3)
            instead = f"Did you mean {' or '.join(close)}?" if close else "Name one of the package, or a file (.yaml)."
            raise RecipeError(f"{key}: lm-evaluation-harness has no task {name!r}. {instead}")


def _task(where: str, path: Path, *, trusted: bool) -> HarnessTask:
    files = list(_files(where, path, trusted=trusted))
    config = config_of(files)
    if not isinstance(config.get("task"), str):
        raise RecipeError(f"{where}: {path} has no task: NAME, as a file of one task has. List its tasks one by one.")
    if not trusted:
        _refuse_code(where, path, config)
    digest = hashlib.sha256("".join(map(file_digest, [*(file for file, _ in files), *_data_files(config)])).encode())
    return HarnessTask(str(config["task"]), path, digest.hexdigest())


def config_of(files: list[tuple[Path, dict[str, Any]]]) -> dict[str, Any]:
    """The task that files give together, each after those that it includes; local data by their whole paths."""
    merged: dict[str, Any] = {}
    for file, config in files:
        merged |= {**config, **_located(config, file.parent)}
    merged.pop("include", None)
    return merged


def task_given(task: HarnessTask, *, trusted: bool) -> str | dict[str, Any]:
    """What the harness takes: the name of a task, or what its file says."""
    if task.file is None:
        return task.name
    if not trusted:
        return config_of(list(_files(str(task.file), task.file, trusted=False)))
    from lm_eval.tasks._yaml_loader import load_yaml

    config: dict[str, Any] = load_yaml(task.file)
    return config | _located(config, task.file.resolve().parent)


def _files(
    where: str, path: Path, *, trusted: bool, above: tuple[Path, ...] = ()
) -> Iterator[tuple[Path, dict[str, Any]]]:
    path = path.resolve()
    if path in above:
        raise RecipeError(f"{where}: {path} includes itself.")
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise RecipeError(f"{where}: {path} has more than {MOST_BYTES // 2**20} MiB, and a task file is a page.")
        config = yaml.load(text, _Trusting if trusted else _Loader)  # noqa: S506
    except OSError as error:
        raise RecipeError(f"{where}: {path} cannot be read ({error.strerror}).") from None
    except _Tagged as tag:
        raise RecipeError(
            f"{where}: {path} has {tag}, which runs Python. Where you trust it, set "
            "evaluate.harness.trust_remote_code: true."
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise RecipeError(f"{where}: {path} is no YAML. Name a task file of lm-evaluation-harness.") from None
    if not isinstance(config, dict):
        raise RecipeError(f"{where}: {path} is no task file; expected keys such as task and dataset_path.")
    included = config.get("include", [])
    for each in included if isinstance(included, list) else [included]:
        yield from _files(where, path.parent / str(each), trusted=trusted, above=(*above, path))
    yield path, config


class _Trusting(yaml.SafeLoader):  # type: ignore[misc]
    """What runs Python is left to the harness."""


_Trusting.add_multi_constructor("", lambda loader, suffix, node: None)


def _refuse_code(where: str, path: Path, config: dict[str, Any]) -> None:
    """What runs Python without a tag: classes, and metrics that are scripts of the hub."""
    from lm_eval.api import metrics  # noqa: F401 registers its own
    from lm_eval.api.registry import metric_registry

    told = [key for key in CODE_KEYS if key in config]
    listed = config.get("metric_list") or []
    for each in listed if isinstance(listed, list) else []:
        name = each.get("metric") if isinstance(each, dict) else None
        if isinstance(each, dict) and (each.get("hf_evaluate") or name not in metric_registry):
            told.append(f"the metric {name!r}, which is a script of a hub")
    if told:
        raise RecipeError(
            f"{where}: {path} has {told[0]}, which runs Python. Where you trust it, set "
            "evaluate.harness.trust_remote_code: true."
        )


def _located(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The arguments of the data set with the files beside the task file by their whole paths."""
    arguments = config.get("dataset_kwargs")
    if config.get("dataset_path") not in BUILT_IN_READERS or not isinstance(arguments, dict):
        return {}

    def located(files: Any) -> Any:
        if isinstance(files, dict):
            return {split: located(each) for split, each in files.items()}
        if isinstance(files, list):
            return [located(each) for each in files]
        return str(folder / files) if isinstance(files, str) and "://" not in files else files

    return {"dataset_kwargs": {**arguments, "data_files": located(arguments.get("data_files"))}}


def _data_files(config: dict[str, Any]) -> list[Path]:
    """Those that lie here, in the order of their names."""
    arguments = config.get("dataset_kwargs")

    def found(files: Any) -> Iterator[Path]:
        inner = files.values() if isinstance(files, dict) else files if isinstance(files, list) else None
        if inner is None:
            yield Path(str(files))
            return
        for each in inner:
            yield from found(each)

    files = found(arguments.get("data_files")) if isinstance(arguments, dict) else iter(())
    return sorted(file for file in files if file.is_file())
