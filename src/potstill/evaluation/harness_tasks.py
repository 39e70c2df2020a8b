"""Tasks of lm-evaluation-harness as a recipe names them: nothing of theirs runs unless the recipe trusts it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from potstill.errors import RecipeError
from potstill.evaluation.harness_code import code_of
from potstill.evaluation.harness_data import PICKLES, LocalData, digests, local_data, located
from potstill.evaluation.harness_files import TaskFile, merged, task_files
from potstill.evaluation.harness_names import PACKAGE, metrics_of, require_known
from potstill.recipe.harness_settings import HarnessSettings
from potstill.run_dir import file_digest, fingerprint

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
    """Of the file, of those that it includes, of its functions with what they import of the files beside them, and of
    its local data."""
    metrics: tuple[str, ...] = ()
    """What is measured in it, as records call it; none where only running it tells."""


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
    named = require_known({name: key for name, key in where.items() if name not in files})
    tasks = {
        where[name]: found.get(name) or HarnessTask(name, metrics=metrics_of(named.get(name, {})))
        for name in settings.tasks
    }
    _require_other_names(tasks)
    return tuple(tasks.values())


def _require_other_names(tasks: Mapping[str, HarnessTask]) -> None:
    """That each is known by a name of its own: of equal ones the harness would run the last alone."""
    first: dict[str, str] = {}
    for key, task in tasks.items():
        if task.name in first:
            raise RecipeError(f"{key}: is called {task.name!r}, as {first[task.name]} is. Give one another task: NAME.")
        first[task.name] = key


def _task(where: str, path: Path, *, trusted: bool) -> HarnessTask:
    files = task_files(where, path, trusted=trusted)
    config = merged(files)
    if not isinstance(config.get("task"), str):
        raise RecipeError(f"{where}: {path} has no task: NAME, as a file of one task has. List its tasks one by one.")
    if not trusted:
        _refuse_code(where, path, config)
    data = _data(where, files, config, trusted=trusted)
    parts = [*(file.path for file in files), *code_of(where, files)]
    try:
        digest = fingerprint({"files": [file_digest(part) for part in parts], "data": digests(data)})
    except OSError as error:
        raise RecipeError(f"{where}: {error.filename} cannot be read ({error.strerror}).") from None
    return HarnessTask(str(config["task"]), path, digest, metrics_of(config))


def task_given(task: HarnessTask, *, trusted: bool) -> str | dict[str, Any]:
    """What the harness takes: the name of a task, or what its file says."""
    if task.file is None:
        return task.name
    files = task_files(task.name, task.file, trusted=trusted)
    config = merged(files)
    data = _data(task.name, files, config, trusted=trusted)
    if trusted:
        from lm_eval.tasks._yaml_loader import load_yaml

        config = load_yaml(task.file)
    return located(config, data)


def _data(where: str, files: Sequence[TaskFile], config: Mapping[str, Any], *, trusted: bool) -> LocalData | None:
    """Its data, seen from the file whose `dataset_kwargs` count."""
    giving = [file for file in files if "dataset_kwargs" in file.config]
    folder = (giving or files)[-1].path.parent
    return local_data(where, files[-1].path, config, folder, trusted=trusted)


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
