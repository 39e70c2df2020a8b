"""Graphs of models with a head: what their runtimes have in common.

A runtime of graphs is a module with `open_graph(folder, manifest, threads) -> Graph`. It imports its library when it is
asked, for the process that measures it holds what it imports.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from potstill.artefacts.manifest import Manifest
from potstill.artefacts.reading import Feeds

Graph = Callable[[Feeds], npt.NDArray[np.float32]]
"""From the inputs of some texts to the logits of their rows or tokens."""


def open_graph(folder: Path, manifest: Manifest, threads: int) -> Graph:
    """The graph in a shipped folder, by the runtime that its manifest names."""
    from potstill.runtimes import RUNTIMES

    module: Any = import_module(RUNTIMES[manifest.runtime].graph)
    opened: Graph = module.open_graph(folder, manifest, threads)
    return opened
