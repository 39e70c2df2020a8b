"""The header of a GGUF file: its parts, its layers, and whether all of its tensors are there.

The format is described in https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import mmap
import re
import struct
from pathlib import Path
from typing import Any

from potstill.checkpoints.pointers import require_no_pointer
from potstill.errors import ModelError

_MAGIC = b"GGUF"
_STRING, _ARRAY = 8, 9
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""How the value of each type is packed."""
_MOST_DIMENSIONS = 8
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")


def check_gguf(file: Path) -> None:
    """Refuse a file that is not a whole model.

    Raises:
        ModelError: a git-lfs pointer, another format, one part of several, a cut file, or layers that are missing.
    """
    values, tensors, end = _read(file)
    _require_model(file, values)
    _require_whole(file, values)
    _require_layers(file, values, tensors)
    _require_size(file, values, tensors, end)
    if "tokenizer.ggml.model" not in values:
        raise ModelError(
            f"{file}: it has no tokenizer (tokenizer.ggml.model). Take a file that has one, or convert the model anew "
            "with its tokenizer beside it."
        )


def gguf_tensors(file: Path) -> set[str]:
    """The names of the tensors that are weights: not of tables that are computed from the configuration.

    Raises:
        ModelError: no GGUF file, or one whose header is cut.
    """
    return {name for name in _read(file)[1] if not name.startswith("rope_") and "attn_rot_embd" not in name}


def _read(file: Path) -> tuple[dict[str, Any], dict[str, tuple[list[int], int, int]], int]:
    require_no_pointer(file)
    if file.stat().st_size < 24:
        raise ModelError(f"{file}: not a GGUF file: it has {file.stat().st_size} bytes. Download it again.")
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[:4] != _MAGIC:
            raise ModelError(f"{file}: not a GGUF file: it does not begin with {_MAGIC.decode()}. Download it again.")
        try:
            return _Reader(content).header()
        except (struct.error, IndexError, KeyError, UnicodeDecodeError, OverflowError) as error:
            raise ModelError(
                f"{file}: the file is cut or damaged: its header goes beyond its {len(content):,} bytes, or has values "
                "of types that the format does not know. Download it again."
            ) from error


def _require_model(file: Path, values: dict[str, Any]) -> None:
    if values.get("general.type", "model") == "adapter":
        raise ModelError(
            f"{file}: this is an adapter ({values.get('adapter.type', 'of an unknown kind')}), which is no model by "
            "itself. Merge it into its base model with llama.cpp's llama-export-lora, and name the merged file."
        )
    if values.get("general.type", "model") != "model":
        raise ModelError(f"{file}: its header says that it is a {values['general.type']}, not a model.")


def _require_whole(file: Path, values: dict[str, Any]) -> None:
    count = values.get("split.count", 1)
    name = _PART.fullmatch(file.name)
    if count <= 1 and not (name and int(name[3]) > 1):
        return
    count = count if count > 1 else int(name[3]) if name else count
    parts = f"{name[1]}-00001-of-{count:05}.gguf to -{count:05}-of-{count:05}.gguf" if name else f"{count} files"
    first = f"{name[1]}-00001-of-{count:05}.gguf" if name else file.name
    raise ModelError(
        f"{file}: this is one part of a model in {count} (split.count; {parts}), and one part alone is no model. Merge "
        f"them with llama.cpp's `llama-gguf-split --merge {first} merged.gguf` and name the merged file."
    )


def _require_layers(file: Path, values: dict[str, Any], tensors: dict[str, tuple[list[int], int, int]]) -> None:
    stated = values.get(f"{values.get('general.architecture')}.block_count")
    if stated is None:
        return
    found = {int(match[1]) for name in tensors if (match := re.match(r"blk\.(\d+)\.", name))}
    if found != set(range(stated)):
        odd = sorted(found ^ set(range(stated)))
        raise ModelError(
            f"{file}: its header says {stated} layers, and the file holds the tensors of {len(found)} (the first that "
            f"differs is number {odd[0]}). It is damaged or one part of several; download or convert it again."
        )


def _require_size(file: Path, values: dict[str, Any], tensors: dict[str, tuple[list[int], int, int]], end: int) -> None:
    try:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    except ImportError as error:
        raise ModelError(
            f"{file}: GGUF files are read with the package gguf. Run: pip install potstill[gguf]"
        ) from error
    alignment = values.get("general.alignment", 32)
    data = -(-end // alignment) * alignment
    known = {kind.value: GGML_QUANT_SIZES[kind] for kind in GGMLQuantizationType}
    expected = data
    for shape, kind, offset in tensors.values():
        elements = 1
        for size in shape:
            elements *= size
        block, size = known.get(kind, (1, 0))
        expected = max(expected, data + offset + elements // block * size)
    if (size := file.stat().st_size) < expected:
        raise ModelError(
            f"{file}: the file is cut: it has {size:,} bytes, and its header says {expected:,}. Download or copy it "
            "again."
        )


class _Reader:
    """Walks over a header; of lists it keeps nothing, since vocabularies are long."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self._at = 4

    def header(self) -> tuple[dict[str, Any], dict[str, tuple[list[int], int, int]], int]:
        """Values by key; shape, type and offset of each tensor; where the header ends."""
        self._take("I")  # the version
        tensors, count = self._take("Q"), self._take("Q")
        values = {self._string(): self._value(self._take("I")) for _ in range(count)}
        found = {}
        for _ in range(tensors):
            name, dimensions = self._string(), self._take("I")
            if dimensions > _MOST_DIMENSIONS:
                raise KeyError(dimensions)
            shape = [self._take("Q") for _ in range(dimensions)]
            found[name] = (shape, self._take("I"), self._take("Q"))
        return values, found, self._at

    def _take(self, kind: str) -> Any:
        (value,) = struct.unpack_from(f"<{kind}", self._content, self._at)
        self._at += struct.calcsize(f"<{kind}")
        return value

    def _string(self) -> str:
        length = self._take("Q")
        if self._at + length > len(self._content):
            raise IndexError(length)
        text = self._content[self._at : self._at + length].decode("utf-8", errors="replace")
        self._at += length
        return text

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            return self._take(_NUMBERS[kind])
        inner, count = self._take("I"), self._take("Q")
        if inner in _NUMBERS:
            self._at += count * struct.calcsize(f"<{_NUMBERS[inner]}")
        elif inner == _STRING:
            for _ in range(count):
                # Inline: a vocabulary has a hundred thousand.
                (length,) = struct.unpack_from("<Q", self._content, self._at)
                self._at += 8 + length
        else:
            for _ in range(count):
                self._value(inner)
        return None
