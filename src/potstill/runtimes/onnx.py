"""Graphs that ONNX Runtime answers from."""

from pathlib import Path
from typing import Any

from potstill.artefacts.manifest import Manifest
from potstill.runtimes.graphs import Graph, NamedGraph

LOGITS = "logits"
SLOWER = ["SkipLayerNormFusion"]
"""Of the rewritings that ONNX Runtime does when it opens a graph, those that cost time on processors: its kernel of an
addition and a layer norm in one takes several times as long as the two (onnxruntime 1.32: 50 tokens take a student of
two layers 0.55 ms without it, 0.72 ms with it)."""


def open_graph(folder: Path, manifest: Manifest, threads: int) -> Graph:
    """The graph in a folder, on the processor."""
    session = _session(folder / manifest.model_file, threads)
    return lambda feeds: session.run([LOGITS], dict(feeds))[0]


def open_named(file: Path, threads: int) -> NamedGraph:
    """The graph in a file, likewise."""
    session = _session(file, threads)
    names = [each.name for each in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(names, dict(feeds)), strict=True))


def _session(file: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that spin while they wait slow each other on a busy machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(
        str(file), options, providers=["CPUExecutionProvider"], disabled_optimizers=SLOWER
    )
