"""Tasks of lm-evaluation-harness as a recipe names them: nothing of theirs runs unless the recipe trusts it."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from potstill.errors import RecipeError
from potstill.evaluation.harness_data import PICKLES, LocalData, digests, local_data, located
from potstill.evaluation.harness_files import FUNCTION, TaskFile, task_files
from potstill.recipe.harness_settings import HarnessSettings
from potstill.run_dir import file_digest, fingerprint

PACKAGE = "lm_eval"
SUFFIXES = (".yaml", ".yml")
CODE_KEYS = ("class", "custom_dataset", "use_prompt")
"""Keys whose values are Python, or name files that can hold some."""


@dataclass(frozen=True)
class HarnessTask:
    """A task as the harness is given it."""

    name: str
    file: Path | None = None
    """None of one that the package knows by its name."""
    digest: str = ""
    """Of the file, of those that it includes, of its functions and of its local data."""


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
    tasks = {where[name]: found.get(name, HarnessTask(name)) for name in settings.tasks}
    _require_other_names(tasks)
    return tuple(tasks.values())


def _require_known(names: Mapping[str, str]) -> None:
    """That the package has tasks of these names; it reads ten thousand files to know them, which takes seconds."""
    from lm_eval.tasks import TaskManager

    known = TaskManager().all_tasks
    for name, key in names.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3)
            instead = f"Did you mean {' or '.join(close)}?" if close else "Name one of the package, or a file (.yaml)."
            raise RecipeError(f"{key}: lm-evaluation-harness has no task {name!r}. {instead}")


def _require_other_names(tasks: Mapping[str, HarnessTask]) -> None:
    """That each is known by a name of its own: of equal ones the harness would run the last alone."""
    first: dict[str, str] = {}
    for key, task in tasks.items():
        if task.name in first:
            raise RecipeError(f"{key}: is called {task.name!r}, as {first[task.name]} is. Give one another task: NAME.")
        first[task.name] = key


def _task(where: str, path: Path, *, trusted: bool) -> HarnessTask:
    files = task_files(where, path, trusted=trusted)
    config = _merged(files)
    if not isinstance(config.get("task"), str):
        raise RecipeError(f"{where}: {path} has no task: NAME, as a file of one task has. List its tasks one by one.")
    if not trusted:
        _refuse_code(where, path, config)
    data = _data(where, files, config, trusted=trusted)
    parts = [*(file.path for file in files), *_code(where, files)]
    try:
        digest = fingerprint({"files": [file_digest(part) for part in parts], "data": digests(data)})
    except OSError as error:
        raise RecipeError(f"{where}: {error.filename} cannot be read ({error.strerror}).") from None
    return HarnessTask(str(config["task"]), path, digest)


def task_given(task: HarnessTask, *, trusted: bool) -> str | dict[str, Any]:
    """What the harness takes: the name of a task, or what its file says."""
    if task.file is None:
        return task.name
    files = task_files(task.name, task.file, trusted=trusted)
    config = _merged(files)
    data = _data(task.name, files, config, trusted=trusted)
    if trusted:
        from lm_eval.tasks._yaml_loader import load_yaml

        config = load_yaml(task.file)
    return located(config, data)


def _merged(files: Sequence[TaskFile]) -> dict[str, Any]:
    """The task that files give together."""
    merged: dict[str, Any] = {}
    for file in files:
        merged |= file.config
    merged.pop("include", None)
    return merged


def _data(where: str, files: Sequence[TaskFile], config: Mapping[str, Any], *, trusted: bool) -> LocalData | None:
    """Its data, seen from the file whose `dataset_kwargs` count."""
    giving = [file for file in files if "dataset_kwargs" in file.config]
    folder = (giving or files)[-1].path.parent
    return local_data(where, files[-1].path, config, folder, trusted=trusted)


def _code(where: str, files: Sequence[TaskFile]) -> Iterator[Path]:
    """The files of the functions that a trusted task names; those of installed modules change with the environment."""
    for file in files:
        for function in file.functions:
            module = function.rpartition(".")[0]
            package = module.partition(".")[0]
            path = file.path.parent / f"{module.replace('.', '/')}.py"
            if path.is_file():
                yield path
            elif not package or find_spec(package) is None:
                raise RecipeError(
                    f"{where}: {file.path} has {FUNCTION} {function}, whose module neither lies beside it nor is "
                    "installed."
                )


def _refuse_code(where: str, path: Path, config: Mapping[str, Any]) -> None:
    """What runs Python without a tag: classes, pickles, and metrics that are scripts of the hub."""
    from lm_eval.api import metrics  # noqa: F401 registers its own
    from lm_eval.api.registry import metric_registry

    told = [key for key in CODE_KEYS if key in config]
    if config.get("dataset_path") == PICKLES:
        told.append(f"dataset_path: {PICKLES}")
    listed = config.get("metric_list") or []
    for each in listed if isinstance(listed, list) else []:
        name = each.get("metric") if isinstance(each, dict) else None
        if isinstance(each, dict) and not isinstance(name, str):
            raise RecipeError(f"{where}: {path} has a metric without a name: {name!r}. Write metric: NAME.")
        if isinstance(each, dict) and (each.get("hf_evaluate") or name not in metric_registry):
            told.append(f"the metric {name!r}, which is a script of a hub")
    if told:
        raise RecipeError(
            f"{where}: {path} has {told[0]}, which runs Python. Where you trust it, set "
            "evaluate.harness.trust_remote_code: true."
        )
