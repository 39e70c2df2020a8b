"""Graphs that OpenVINO answers from."""

from pathlib import Path
from typing import Any

from potstill.artefacts.manifest import Manifest
from potstill.runtimes.graphs import Graph, NamedGraph

LOGITS = "logits"


def open_graph(folder: Path, manifest: Manifest, threads: int) -> Graph:
    """The graph in a folder, on the processor, in float32: half precision would be another model."""
    request = _compiled(folder / manifest.model_file, threads).create_infer_request()
    # Its own memory is written over by the next answer.
    return lambda feeds: request.infer(dict(feeds))[LOGITS].copy()


def open_named(file: Path, threads: int) -> NamedGraph:
    """The graph in a file, likewise."""
    model = _compiled(file, threads)
    request, names = model.create_infer_request(), [each.get_any_name() for each in model.outputs]

    def answer(feeds: Any) -> Any:
        found = request.infer(dict(feeds))
        return {name: found[name].copy() for name in names}

    return answer


def _compiled(file: Path, threads: int) -> Any:
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    return openvino.Core().compile_model(str(file), "CPU", settings)
