"""Graphs that ONNX Runtime answers from."""

from pathlib import Path
from typing import Any

from potstill.artefacts.manifest import Manifest
from potstill.runtimes.graphs import Graph

LOGITS = "logits"


def open_graph(folder: Path, manifest: Manifest, threads: int) -> Graph:
    """The graph in a folder, on the processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that spin while they wait slow each other on a busy machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session: Any = onnxruntime.InferenceSession(
        str(folder / manifest.model_file), options, providers=["CPUExecutionProvider"]
    )
    return lambda feeds: session.run([LOGITS], dict(feeds))[0]
