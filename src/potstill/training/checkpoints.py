"""Checkpoints that are whole or invisible, in safetensors and JSON: model, optimiser, random state, progress.

A checkpoint is a folder `step-00000120/`, renamed into place when all its files are on disk. `state.json`
holds the sha256 of the others and of itself, so a damaged one is recognised and an older one used instead.
"""

import hashlib
import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from potstill.errors import CheckpointError
from potstill.run_dir import atomic_folder, file_digest, write_json
from potstill.training.states import TrainingState

TENSORS = {"model.safetensors", "optimiser.safetensors", "random.safetensors"}


@dataclass(frozen=True)
class Progressed:
    """How far training is, beside the weights."""

    step: int = 0
    best_step: int = 0
    best_validation_loss: float = float("inf")
    best_validation_accuracy: float | None = 0.0
    evaluations_without_gain: int = 0
    stopped_early: bool = False


def save_checkpoint(folder: Path, state: TrainingState, progressed: Progressed, random: Mapping[str, Tensor]) -> None:
    """Write the checkpoint of `progressed.step`."""
    moments = {
        f"{parameter}|{name}": tensor for parameter, each in state.moments.items() for name, tensor in each.items()
    }
    with atomic_folder(folder / _name(progressed.step)) as target:
        save_file(_owned(state.weights), target / "model.safetensors")
        save_file(_owned(moments), target / "optimiser.safetensors")
        save_file(dict(random), target / "random.safetensors")
        digests = {path.name: file_digest(path) for path in sorted(target.iterdir())}
        written = {"progress": asdict(progressed), "groups": state.groups, "files": digests}
        write_json(target / "state.json", written | {"digest": _digest(written)})


def newest_checkpoint(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that is whole, and the names of newer ones that are not.

    Raises:
        CheckpointError: there are checkpoints and none is whole.
    """
    damaged: list[str] = []
    for path in sorted(folder.glob("step-*"), reverse=True):
        if is_whole(path):
            return path, damaged
        damaged.append(path.name)
    if damaged:
        raise CheckpointError(
            f"{folder}: none of its checkpoints is whole ({', '.join(damaged)}). "
            "Remove the folder to train from the start."
        )
    return None, damaged


def is_whole(checkpoint: Path) -> bool:
    """Whether every file is there and matches its sha256."""
    try:
        state = json.loads((checkpoint / "state.json").read_bytes())
        # Earlier versions wrote none.
        digest = state.pop("digest", None)
        if state.keys() != {"progress", "groups", "files"} or state["files"].keys() != TENSORS:
            return False
        if digest is not None and digest != _digest(state):
            return False
        return all(file_digest(checkpoint / name) == sha256 for name, sha256 in state["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def read_progress(checkpoint: Path) -> Progressed:
    state = json.loads((checkpoint / "state.json").read_bytes())
    return replace(Progressed(), **state["progress"])


def read_checkpoint(checkpoint: Path) -> tuple[TrainingState, dict[str, Tensor]]:
    """The state of the training, and the states of its random generators."""
    groups: list[dict[str, Any]] = json.loads((checkpoint / "state.json").read_bytes())["groups"]
    moments: dict[str, dict[str, Tensor]] = {}
    for key, tensor in load_file(checkpoint / "optimiser.safetensors").items():
        parameter, _, name = key.partition("|")
        moments.setdefault(parameter, {})[name] = tensor
    state = TrainingState(load_file(checkpoint / "model.safetensors"), moments, groups)
    return state, load_file(checkpoint / "random.safetensors")


def read_weights(folder: Path, step: int) -> dict[str, Tensor]:
    """Only the weights, of the checkpoint of a step.

    Raises:
        CheckpointError: it is damaged.
    """
    checkpoint = folder / _name(step)
    if not is_whole(checkpoint):
        raise CheckpointError(f"{checkpoint}: the best checkpoint is damaged. Remove {folder} to train from the start.")
    return load_file(checkpoint / "model.safetensors")


def keep_newest(folder: Path, count: int, best_step: int, whole: Collection[int] = ()) -> None:
    """Remove all but the newest `count` checkpoints that are whole, and the best one.

    `whole` are steps whose checkpoints need no look, since this process wrote them. One that is damaged counts for
    nothing: it would take the place of the last from which training can go on. Where none is whole, all stay.
    """
    kept: set[str] = set()
    known = {_name(step) for step in whole}
    paths = sorted(folder.glob("step-*"), reverse=True)
    for path in paths:
        if len(kept) < count and (path.name in known or is_whole(path)):
            kept.add(path.name)
    for path in paths if kept else []:
        if path.name not in kept | {_name(best_step)}:
            shutil.rmtree(path)


def _digest(state: dict[str, Any]) -> str:
    # A loss that was not measured yet is infinite, which canonical JSON does not know.
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _owned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """In one piece each and sharing no memory, as safetensors asks: tied weights appear under each of their names."""
    owned: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, tensor in tensors.items():
        here = tensor.detach().cpu().contiguous()
        place = here.untyped_storage().data_ptr()
        owned[name] = here.clone() if place in places else here
        places.add(place)
    return owned
