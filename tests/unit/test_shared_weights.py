"""Graphs that share a file of weights: each tensor once, and each graph with its own."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import onnxruntime

from potstill.exporters.shared_weights import SMALLEST, save_together

FLOAT = onnx_ir.DataType.FLOAT


def graph_of(weights: dict[str, np.ndarray]) -> Any:
    """One that gives the sum of each of its weights, times what it is given."""
    given = onnx_ir.Value(name="x", shape=onnx_ir.Shape([1]), type=onnx_ir.TensorType(FLOAT))
    axes = onnx_ir.Value(name="axes", const_value=onnx_ir.tensor(np.array([0], dtype=np.int64), name="axes"))
    held, nodes, results = [axes], [], []
    for name, values in weights.items():
        value = onnx_ir.Value(name=name, const_value=onnx_ir.tensor(values, name=name))
        held.append(value)
        cast = onnx_ir.node("Cast", [value], {"to": 1})
        flat = onnx_ir.node("Flatten", [cast.outputs[0]], {"axis": 0})
        total = onnx_ir.node("ReduceSum", [flat.outputs[0]], {"keepdims": 0})
        scaled = onnx_ir.node("Mul", [total.outputs[0], given])
        scaled.outputs[0].name = f"{name}_sum"
        scaled.outputs[0].type, scaled.outputs[0].shape = onnx_ir.TensorType(FLOAT), onnx_ir.Shape([1])
        nodes += [cast, flat, total, scaled]
        results.append(scaled.outputs[0])
    graph = onnx_ir.Graph([given], results, nodes=nodes, initializers=held, opset_imports={"": 18}, name="sums")
    return onnx_ir.Model(graph, ir_version=10)


def answers(path: Path) -> dict[str, float]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    found: list[Any] = session.run(names, {"x": np.array([2], dtype=np.float32)})
    return {name: float(value[0]) for name, value in zip(names, found, strict=True)}


def test_each_weight_is_written_once_and_every_graph_reads_its_own(tmp_path: Path) -> None:
    both = np.arange(1000, dtype=np.float32)
    weights = {
        "first": {"shared": both, "own": both + 1, "again": both.copy()},
        # The same numbers in another shape, and the same bytes of another type.
        "second": {"other": both.copy(), "square": both.reshape(10, 100), "whole": both.view(np.int32).copy()},
        "third": {"small": np.arange(8, dtype=np.float32)},
    }
    save_together({f"{name}.onnx": graph_of(each) for name, each in weights.items()}, tmp_path, "weights.data")
    assert (tmp_path / "weights.data").stat().st_size == 4 * 4000, "shared, own, square and whole"
    for name, each in weights.items():
        expected = {f"{key}_sum": 2 * float(values.astype(np.float64).sum()) for key, values in each.items()}
        found = answers(tmp_path / f"{name}.onnx")
        assert found.keys() == expected.keys()
        for key in expected:
            np.testing.assert_allclose(found[key], expected[key], rtol=1e-5, err_msg=key)
    # What is small stays where shapes are inferred from it.
    sizes = [(tmp_path / f"{name}.onnx").stat().st_size for name in ("first", "third")]
    assert max(sizes) < 3 * SMALLEST
