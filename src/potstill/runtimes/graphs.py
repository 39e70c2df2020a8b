"""Graphs: what their runtimes have in common.

A runtime of graphs is a module with `open_graph(folder, manifest, threads) -> Graph`, for a model with a head, and
`open_named(file, threads) -> NamedGraph`, for each of the two graphs of an encoder-decoder. It imports its library when
it is asked, for the process that measures it holds what it imports.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from potstill.artefacts.manifest import Manifest
from potstill.artefacts.reading import Feeds
from potstill.run_dir import folder_files

Numbers = npt.NDArray[np.float32]
Graph = Callable[[Feeds], Numbers]
"""From the inputs of some texts to the logits of their rows or tokens."""
NamedGraph = Callable[[Mapping[str, npt.NDArray[Any]]], dict[str, Numbers]]
"""From inputs to outputs, each by its name."""


def open_graph(folder: Path, manifest: Manifest, threads: int) -> Graph:
    """The graph in a shipped folder, by the runtime that its manifest names."""
    opened: Graph = _runtime(manifest).open_graph(folder, manifest, threads)
    return opened


def open_named(folder: Path, name: str, manifest: Manifest, threads: int) -> NamedGraph:
    """The graph of this name in a shipped folder, likewise."""
    opened: NamedGraph = _runtime(manifest).open_named(folder / name, threads)
    return opened


def _runtime(manifest: Manifest) -> Any:
    from potstill.runtimes import RUNTIMES

    return import_module(RUNTIMES[manifest.runtime].graph)


def model_bytes(folder: Path, manifest: Manifest) -> int:
    """Of the files of the model itself: those that are named, and those with their names that hold its weights."""
    stems = {_stem(name) for name in (manifest.model_file, manifest.encoder_file) if name}
    return sum(
        (folder / name).stat().st_size for name in folder_files(folder, relative_to=folder) if _stem(name) in stems
    )


def _stem(name: str) -> str:
    return name.partition(".")[0]
