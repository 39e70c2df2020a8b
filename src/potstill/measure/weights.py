"""The weights of a saved model: their type, and their size as they lie on disk, without what lies beside them."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from potstill.locations import GGUF

HALF = frozenset({"bfloat16", "float16"})
"""The types in which a model can be served that is saved in them, beside float32."""
COMMON = "float32"
"""The type in which all models are trained and compared."""
BYTES_IN_COMMON = 4

_TORCH_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
_INDEX = "model.safetensors.index.json"
_PART = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")


@dataclass(frozen=True)
class SavedWeights:
    """What a model is served as."""

    type: str
    """That of most of their bytes, as torch calls it; one that torch has no tensors of, as its file does."""
    size_bytes: int


def saved_weights(location: Path) -> SavedWeights:
    """The weights in a folder, those that transformers would load, or in a GGUF file."""
    if location.suffix == GGUF:
        files = _gguf_files(location)
        return SavedWeights(f"GGUF {_most(_gguf_types(files))}", _size(files))
    files = _safetensors_files(location)
    return SavedWeights(_most(_safetensors_types(files)), _size(files))


def one_type(folder: Path) -> str:
    """The type of all weights in a folder; of several the one in which none of them is rounded."""
    types = set(_safetensors_types(_safetensors_files(folder))) & set(_TORCH_NAMES.values())
    return types.pop() if len(types) == 1 else COMMON


def _safetensors_files(folder: Path) -> list[Path]:
    """One whole file goes before an index of several, as in transformers."""
    whole = folder / "model.safetensors"
    if whole.is_file() or not (folder / _INDEX).is_file():
        return [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))
    shards = json.loads((folder / _INDEX).read_text())["weight_map"].values()
    return [folder / name for name in sorted(set(shards))]


def _safetensors_types(files: Sequence[Path]) -> Counter[str]:
    """How many bytes are of which type, by the headers alone."""
    found: Counter[str] = Counter()
    for path in files:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for name, tensor in header.items():
            if name != "__metadata__":
                low, high = tensor["data_offsets"]
                found[_TORCH_NAMES.get(tensor["dtype"], tensor["dtype"])] += high - low
    return found


def _gguf_files(file: Path) -> list[Path]:
    """The file, with the other parts of a model that is split over several."""
    part = _PART.search(file.name)
    return sorted(file.parent.glob(f"{file.name[: part.start()]}-*-of-{part[1]}.gguf")) if part else [file]


def _gguf_types(files: Sequence[Path]) -> Counter[str]:
    from gguf import GGUFReader

    found: Counter[str] = Counter()
    for path in files:
        for tensor in GGUFReader(path).tensors:
            found[tensor.tensor_type.name] += int(tensor.n_bytes)
    return found


def _most(types: Counter[str]) -> str:
    return types.most_common(1)[0][0] if types else COMMON


def _size(files: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in files)
