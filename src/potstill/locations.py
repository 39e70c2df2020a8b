"""Where a model lies: a folder, a model that an installed package carries, or a hub id."""

import importlib.util
import re
from pathlib import Path

from potstill.errors import ModelError

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def resolve(location: str) -> str:
    """The folder of `location`, or the hub id unchanged.

    `pkg:package/path` names a path inside an installed package, which is found without importing it.

    Raises:
        ModelError: the package is not installed, or there is no such folder in it or on disk.
    """
    if location.startswith("pkg:"):
        return str(_inside_package(location))
    folder = Path(location).expanduser()
    if folder.is_dir():
        return str(folder)
    if _HUB_ID.fullmatch(location) and not location.startswith("."):
        return location
    raise ModelError(
        f"{location}: no such folder, and not a hub id (organisation/name). "
        "Give a folder, a hub id, or pkg:package/path for a model inside an installed package."
    )


def _inside_package(location: str) -> Path:
    package, _, inside = location.removeprefix("pkg:").partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        name = package.replace("_", "-")
        raise ModelError(f"{location}: the package {package!r} is not installed. Run: pip install {name}")
    root = Path(spec.submodule_search_locations[0]).resolve()
    folder = (root / inside).resolve()
    if not folder.is_relative_to(root) or not folder.is_dir():
        raise ModelError(f"{location}: the package has no folder {inside!r}.")
    return folder
