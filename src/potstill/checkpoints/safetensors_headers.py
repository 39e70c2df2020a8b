"""Names, shapes and types of the tensors of a folder, from the headers of its safetensors files alone."""

import json
import struct
from pathlib import Path
from typing import Any, NamedTuple

from potstill.checkpoints.pointers import require_no_pointer
from potstill.errors import ModelError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_LARGEST_HEADER = 100_000_000
"""Bytes; the library refuses more."""


class Stored(NamedTuple):
    """A tensor as the header of a file describes it."""

    file: Path
    shape: list[int]
    kind: str
    """Its type, such as F32 or I8."""


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights of a folder: one, or all that its index names. None where there is neither.

    Raises:
        ModelError: an index that cannot be read, or a file of it that is not there.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        return []
    names = sorted(set(_index(folder / INDEX).values()))
    if absent := [name for name in names if not (folder / name).is_file()]:
        raise ModelError(
            f"{folder}: {len(absent)} of the {len(names)} files that {INDEX} names are not there: "
            f"{', '.join(absent[:3])}. Download the whole model again."
        )
    return [folder / name for name in names]


def tensor_shapes(folder: Path) -> dict[str, list[int]]:
    """The shape of each tensor by its name in the files; raises as `stored_tensors`."""
    return {name: tensor.shape for name, tensor in stored_tensors(folder).items()}


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """What the headers say of each tensor, by its name in the files.

    Raises:
        ModelError: a file that is cut, damaged, or no safetensors file, or a tensor of the index that is in none.
    """
    files = weight_files(folder)
    found = {
        name: Stored(file, tensor["shape"], tensor["dtype"]) for file in files for name, tensor in _header(file).items()
    }
    if (folder / WEIGHTS).is_file():
        return found
    if files and (absent := sorted(set(_index(folder / INDEX)) - set(found))):
        raise ModelError(
            f"{folder}: {len(absent)} weights that {INDEX} names are in none of its files, first {absent[0]}. The "
            "files are of different versions of the model; download all of them again."
        )
    return found


def _index(file: Path) -> dict[str, str]:
    require_no_pointer(file)
    try:
        weights = json.loads(file.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{file}: not the index of a model in several files. Download it again.") from error
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights.values()):
        raise ModelError(f"{file}: weight_map must give the file of each weight. Download it again.")
    # A name from a file never becomes a path outside of its folder.
    return {weight: Path(name).name for weight, name in weights.items()}


def _header(file: Path) -> dict[str, Any]:
    require_no_pointer(file)
    size = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if start.startswith(b"PK"):
            raise ModelError(
                f"{file}: this is a file of torch.save, which holds pickles that are never read, under another name. "
                "Save the model anew with model.save_pretrained."
            )
        if not 0 < length <= _LARGEST_HEADER:
            raise ModelError(f"{file}: not a safetensors file. Download it again, or save the model anew.")
        text = opened.read(length)
    if len(text) < length:
        raise _cut(file, size, None)
    try:
        tensors = json.loads(text)
        tensors.pop("__metadata__", None)
        end = 8 + length + max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
        assert all(isinstance(each, int) for tensor in tensors.values() for each in tensor["shape"])
        assert all(isinstance(tensor["dtype"], str) for tensor in tensors.values())
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise ModelError(f"{file}: its header cannot be read, so it is damaged. Download it again.") from error
    if size != end:
        raise _cut(file, size, end)
    assert isinstance(tensors, dict)
    return tensors


def _cut(file: Path, size: int, expected: int | None) -> ModelError:
    of = "fewer than its header alone needs" if expected is None else f"and its header says {expected:,}"
    what = "damaged" if expected is not None and size > expected else "cut"
    return ModelError(f"{file}: the file is {what}: it has {size:,} bytes, {of}. Download or copy it again.")
