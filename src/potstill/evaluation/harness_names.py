"""Names of tasks that lm-evaluation-harness brings, told apart from those that it has not."""

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from potstill.errors import RecipeError
from potstill.evaluation.harness_files import TrustingLoader, merged, task_files

PACKAGE = "lm_eval"
GENERATE = "generate_until"
"""How the harness asks where a task does not say."""
DEFAULTS: Mapping[str, Sequence[str]] = {
    "loglikelihood": ("perplexity", "acc"),
    "loglikelihood_rolling": ("word_perplexity", "byte_perplexity", "bits_per_byte"),
    "multiple_choice": ("acc", "acc_norm"),
    GENERATE: ("exact_match",),
}
"""What it measures where a task does not say, by how it asks."""


def require_known(names: Mapping[str, str]) -> dict[str, Mapping[str, Any]]:
    """What the package says of tasks of these names, each of which stands at a key of the recipe; nothing of groups, of
    tags, and of what inherits its name.

    Raises:
        RecipeError: one that it has not, with those that it may be meant for.
    """
    found = dict(_listed(names)) if names else {}
    missing = {name: key for name, key in names.items() if name not in found}
    if not missing:
        return found
    # Its own index also knows what files inherit; it parses all of its ten thousand files, which takes 20 seconds.
    from lm_eval.tasks import TaskManager

    known = TaskManager().all_tasks
    for name, key in missing.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3)
            instead = f"Did you mean {' or '.join(close)}?" if close else "Name one of the package, or a file (.yaml)."
            raise RecipeError(f"{key}: lm-evaluation-harness has no task {name!r}. {instead}")
    return found


def metrics_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """What is measured in a task by what its files say, as records call it; nothing where only running it tells."""
    filters = [each.get("name") if isinstance(each, dict) else None for each in _list(config.get("filter_list"))]
    if config.get("metric_list") is None:
        metrics: list[Any] = list(DEFAULTS.get(str(config.get("output_type", GENERATE)), ()))
    else:
        metrics = [each.get("metric") if isinstance(each, dict) else None for each in _list(config["metric_list"])]
    if "class" in config or not all(isinstance(each, str) for each in (*metrics, *filters)):
        return ()
    kinds = [None if each == "none" else each for each in filters] or [None]
    return tuple(metric if kind is None else f"{metric} ({kind})" for metric in metrics for kind in kinds)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _listed(names: Collection[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Those of the names that a file of the package gives to a task, a group or a tag, with what is said of a task."""
    spec = find_spec(PACKAGE)
    folders = (spec and spec.submodule_search_locations) or ()
    # Of all files those few are parsed in which one of the names stands.
    wanted = [name.encode() for name in names]
    for path in (path for folder in folders for path in Path(folder, "tasks").rglob("*.yaml")):
        content = path.read_bytes()
        if any(name in content for name in wanted):
            yield from _named_in(path, content)


def _named_in(path: Path, content: bytes) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        config: Any = TrustingLoader(content).get_single_data()
    except (yaml.YAMLError, ValueError, TypeError):
        return
    if not isinstance(config, dict):
        return
    if isinstance(group := config.get("group"), str):
        yield group, {}
    elif isinstance(task := config.get("task"), str):
        yield task, _merged(path, config)
        tags = config.get("tag")
        yield from ((tag, {}) for tag in (tags if isinstance(tags, list) else [tags]) if isinstance(tag, str))


def _merged(path: Path, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """With what it includes; nothing where that cannot be read."""
    try:
        files = task_files(str(path), path, trusted=True)
    except RecipeError:
        return {}
    return merged(files)
