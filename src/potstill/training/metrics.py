"""What training writes down as it goes: metrics.jsonl always, trackers where the recipe asks for them."""

import importlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from potstill.errors import RecipeError
from potstill.run_dir import write_text

METRICS = "metrics.jsonl"


@runtime_checkable
class Tracker(Protocol):
    def log(self, values: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class MetricsFile:
    """JSON lines, one for each optimiser step and each validation; cut back to a checkpoint on resume.

    A step says what it cost (`costs.py`), which differs from run to run; earlier versions wrote no costs.
    """

    def __init__(self, path: Path, from_step: int) -> None:
        """Open for appending after the lines of the first `from_step` steps."""
        write_text(path, "".join(line for line in _lines(path) if json.loads(line)["step"] <= from_step))
        self._file = path.open("a", encoding="utf-8")

    def log(self, values: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(values, allow_nan=False) + "\n")

    def sync(self) -> None:
        """To disk, before a checkpoint that counts on these lines."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> "MetricsFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in _lines(path)]


def _lines(path: Path) -> list[str]:
    """The whole lines of a file; the last one is left out if it was cut."""
    if not path.exists():
        return []
    return [f"{line}\n" for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def require_trackers(names: Sequence[str]) -> None:
    """Ask for the packages of a recipe's trackers, without importing them.

    Raises:
        RecipeError: one that is not installed; says how to.
    """
    for name in names:
        found = find_spec(name)
        # A folder of this name, such as the one into which wandb writes, is found as a package without a file.
        if found is None or found.origin is None:
            raise _not_installed(name)


@contextmanager
def open_trackers(names: Sequence[str], folder: Path, run: str) -> Iterator[list[Tracker]]:
    """The trackers of a recipe, each imported only now; all that were opened are closed, also where the next cannot be.

    Raises:
        RecipeError: a tracker whose package is not installed.
    """
    with ExitStack() as opened:
        trackers: list[Tracker] = []
        for name in names:
            trackers.append(_TRACKERS[name](folder, run))
            opened.callback(trackers[-1].close)
        yield trackers


class _TensorBoard:
    def __init__(self, folder: Path, run: str) -> None:
        _require("tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _RunTracker:
    """wandb and trackio, which share one interface."""

    def __init__(self, package: str, run: str, **where: str) -> None:
        self._module = _require(package)
        self._module.init(project="potstill", name=run, **where)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._module.log(dict(values), step=step)

    def close(self) -> None:
        self._module.finish()


def _require(package: str) -> Any:
    require_trackers([package])
    try:
        return importlib.import_module(package)
    except ImportError:
        raise _not_installed(package) from None


def _not_installed(package: str) -> RecipeError:
    return RecipeError(f"train.trackers: {package} is not installed. Run: pip install 'potstill[{package}]'")


_TRACKERS: dict[str, Callable[[Path, str], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": lambda folder, run: _RunTracker("wandb", run, dir=str(folder)),
    "trackio": lambda folder, run: _RunTracker("trackio", run),
}
