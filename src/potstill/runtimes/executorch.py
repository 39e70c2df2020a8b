"""Programs that ExecuTorch answers from.

Its Python package is linked with PyTorch, so that a process that answers holds that too. On a device it is not there.
"""

import warnings
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
import numpy.typing as npt

from potstill.artefacts.manifest import Manifest
from potstill.artefacts.reading import Feeds
from potstill.errors import ModelError
from potstill.runtimes.graphs import Graph

METHOD = "forward"


class Program:
    """A program, which answers one text at a time, without the padding that it has beside others."""

    def __init__(self, path: Path, inputs: tuple[str, ...]) -> None:
        from executorch.runtime import Runtime

        self._inputs = inputs
        self._program: Any = Runtime.get().load_program(path)
        self._method: Any = self._program.load_method(METHOD)

    def __call__(self, feeds: Feeds) -> npt.NDArray[np.float32]:
        width = feeds[self._inputs[0]].shape[1]
        return np.stack([self._of_row(feeds, row, width) for row in range(len(feeds[self._inputs[0]]))])

    def _of_row(self, feeds: Feeds, row: int, width: int) -> npt.NDArray[np.float32]:
        import torch

        length = max(1, int(feeds[MASK][row].sum())) if MASK in feeds else width
        given = [torch.from_numpy(np.ascontiguousarray(feeds[name][row : row + 1, :length])) for name in self._inputs]
        logits: npt.NDArray[np.float32] = self._method.execute(given)[0][0].numpy()
        if logits.ndim == 1:
            return logits
        return np.pad(logits, ((0, width - length), (0, 0)))


MASK = "attention_mask"
_OPEN: WeakSet[Program] = WeakSet()
"""The programs of this process, which share the threads of ExecuTorch and hold them."""


def open_graph(folder: Path, manifest: Manifest, threads: int) -> Graph:
    """The program in a folder, on the processor.

    Raises:
        ModelError: another is open that has other threads.
    """
    with warnings.catch_warnings():
        # Its interface says of itself that it may change; its version is pinned.
        warnings.simplefilter("ignore")
        _use(threads)
        program = Program(folder / manifest.model_file, manifest.inputs)
    _OPEN.add(program)
    return program


def _use(threads: int) -> None:
    """Their number is one for a process, and cannot be changed under a program that holds them."""
    from executorch.extension.pybindings import portable_lib

    present = portable_lib._threadpool_get_thread_count()
    if present == threads:
        return
    if _OPEN:
        raise ModelError(
            f"ExecuTorch has {present} thread(s) in this process, and another program that was opened holds them: a "
            f"program with {threads} must be opened in another process."
        )
    portable_lib._unsafe_reset_threadpool(threads)
