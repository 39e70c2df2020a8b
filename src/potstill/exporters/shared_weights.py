"""ONNX graphs of one model, with its weights in one file: each of them once, whichever graphs and steps read it."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SMALLEST = 1024
"""Bytes of a tensor that lies there; what is smaller stays in its graph, where shapes are inferred from it."""


def save_together(graphs: Mapping[str, Any], folder: Path, weights: str) -> None:
    """Write graphs of `onnx_ir` under their names, and what they hold into the file `weights` beside them."""
    import onnx_ir

    values = [
        value
        for model in graphs.values()
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None and value.const_value.nbytes >= SMALLEST
    ]
    digests = [_digest(value.const_value) for value in values]
    first = {digest: value.const_value for digest, value in reversed(list(zip(digests, values, strict=True)))}
    written = onnx_ir.external_data.convert_tensors_to_external(list(first.values()), folder, weights)
    placed = dict(zip(first, written, strict=True))
    for digest, value in zip(digests, values, strict=True):
        there = placed[digest]
        value.const_value = onnx_ir.ExternalTensor(
            there.location,
            there.offset,
            there.length,
            there.dtype,
            shape=there.shape,
            name=str(value.name),
            base_dir=folder,
        )
    for name, model in graphs.items():
        onnx_ir.save(model, folder / name)


def _digest(tensor: Any) -> tuple[str, tuple[int, ...], bytes]:
    return str(tensor.dtype), tuple(tensor.shape.numpy()), hashlib.sha256(tensor.tobytes()).digest()
