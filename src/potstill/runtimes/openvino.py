"""Graphs that OpenVINO answers from."""

from pathlib import Path
from typing import Any

from potstill.artefacts.manifest import Manifest
from potstill.runtimes.graphs import Graph

LOGITS = "logits"


def open_graph(folder: Path, manifest: Manifest, threads: int) -> Graph:
    """The graph in a folder, on the processor, in float32: half precision would be another model."""
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    model: Any = openvino.Core().compile_model(str(folder / manifest.model_file), "CPU", settings)
    request = model.create_infer_request()
    # Its own memory is written over by the next answer.
    return lambda feeds: request.infer(dict(feeds))[LOGITS].copy()
