"""Task files of lm-evaluation-harness: YAML within limits, each after those that it includes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from potstill.errors import RecipeError
from potstill.recipe.yaml_file import MAX_NODES

MOST_BYTES = 2**20
"""Of a task file, which is a page or two."""
MOST_FILES = 100
"""That a task is made of: tasks of the package are of three or four."""
FUNCTION = "!function"
"""The tag of what a file beside it, or an installed module, defines in Python."""


@dataclass(frozen=True)
class TaskFile:
    """One of the files that a task is made of."""

    path: Path
    config: dict[str, Any]
    """What it says; what runs Python, where it is trusted, is None."""
    functions: tuple[str, ...]
    """The functions that it names, as `module.name`."""


class _Tagged(Exception):
    """A YAML tag that would run Python."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Of plain values alone."""


class TrustingLoader(yaml.SafeLoader):  # type: ignore[misc]
    """What runs Python is left to the harness."""


def _refuse(loader: Any, suffix: str, node: Any) -> Any:
    raise _Tagged(node.tag)


_Loader.add_multi_constructor("", _refuse)
TrustingLoader.add_multi_constructor("", lambda loader, suffix, node: None)


def task_files(where: str, path: Path, *, trusted: bool) -> list[TaskFile]:
    """A file and all that it includes, in the order in which what they say counts: the last has the last word.

    Raises:
        RecipeError: one that cannot be read, that is too large, or that would run Python and is not trusted.
    """
    found: list[TaskFile] = []
    for file in _with_included(where, path, (), trusted=trusted):
        found.append(file)
        if len(found) > MOST_FILES:
            raise RecipeError(f"{where}: {path} is made of more than {MOST_FILES} files. Include fewer.")
    return found


def merged(files: Sequence[TaskFile]) -> dict[str, Any]:
    """The task that files give together."""
    found: dict[str, Any] = {}
    for file in files:
        found |= file.config
    found.pop("include", None)
    return found


def _with_included(where: str, path: Path, above: tuple[Path, ...], *, trusted: bool) -> Iterator[TaskFile]:
    path = path.resolve()
    if path in above:
        raise RecipeError(f"{where}: {path} includes itself.")
    if len(above) == MOST_FILES:
        raise RecipeError(f"{where}: {above[0]} is made of more than {MOST_FILES} files. Include fewer.")
    file = _read(where, path, trusted=trusted)
    included = file.config.get("include", [])
    for each in included if isinstance(included, list) else [included]:
        yield from _with_included(where, path.parent / str(each), (*above, path), trusted=trusted)
    yield file


def _read(where: str, path: Path, *, trusted: bool) -> TaskFile:
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise RecipeError(f"{where}: {path} has more than {MOST_BYTES // 2**20} MiB, and a task file is a page.")
        loader = (TrustingLoader if trusted else _Loader)(text)
        root = loader.get_single_node()
        nodes = _nodes(where, path, root)
        config = None if root is None else loader.construct_document(root)
    except OSError as error:
        raise RecipeError(f"{where}: {path} cannot be read ({error.strerror}).") from None
    except _Tagged as tag:
        raise RecipeError(
            f"{where}: {path} has {tag}, which runs Python. Where you trust it, set "
            "evaluate.harness.trust_remote_code: true."
        ) from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        raise RecipeError(f"{where}: {path} is no YAML. Name a task file of lm-evaluation-harness.") from None
    if not isinstance(config, dict):
        raise RecipeError(f"{where}: {path} is no task file; expected keys such as task and dataset_path.")
    return TaskFile(path, config, tuple(str(node.value) for node in nodes if node.tag == FUNCTION))


def _nodes(where: str, path: Path, root: Any) -> list[Any]:
    """The nodes of a document, each once.

    Raises:
        RecipeError: there are too many of them once aliases are followed, or a key is given twice.
    """
    sizes: dict[int, int] = {}
    nodes: list[Any] = []

    def size(node: Any) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = MAX_NODES + 1  # of one that contains itself
            nodes.append(node)
            sizes[id(node)] = min(1 + sum(map(size, _inside(node))), MAX_NODES + 1)
        return sizes[id(node)]

    if root is not None and size(root) > MAX_NODES:
        raise RecipeError(f"{where}: {path} has more than {MAX_NODES:,} values (aliases that expand?).")
    for node in nodes:
        keys = [(key.tag, str(key.value)) for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise RecipeError(f"{where}: {path} gives {twice[1]!r} twice. Keep one of them.")
    return nodes


def _inside(node: Any) -> list[Any]:
    if isinstance(node, yaml.MappingNode):
        return [each for pair in node.value for each in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []
