"""ONNX for ONNX Runtime: any processor, browsers and phones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import nn
from transformers import PreTrainedModel

from potstill.exporters.encoder_decoders import write_graphs
from potstill.exporters.exporter import GraphExporter, Source, versions_of
from potstill.exporters.rounding import RoundOf, int8_by_channel, int8_of_all
from potstill.exporters.shared_weights import save_together
from potstill.exporters.tracing import write_graph

CALIBRATION_ROWS = 128
"""As many as post-training quantisation is usually calibrated on (GPTQ, SmoothQuant and NNCF take 128 to 300)."""


class Onnx(GraphExporter):
    """A graph in ONNX, in float32 or with weights in 8 bits."""

    kind: Literal["onnx"] = "onnx"
    precision: Literal["float32", "int8"] = "int8"
    activations: Literal["dynamic", "static"] = "dynamic"
    """Of int8: whether activations are scaled as they come, or as training rows have shown before. The first needs no
    rows and loses less; the second is faster on some processors."""
    calibration_rows: int = Field(default=CALIBRATION_ROWS, ge=1)
    """Training rows that static scales are taken from."""
    runtime: ClassVar[str] = "onnx"
    extra: ClassVar[str | None] = "onnx"
    libraries: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "onnxruntime")

    @property
    def form(self) -> str:
        return f"{self.kind}-{self.precision}{'-static' if self.scaled_on_rows else ''}"

    @property
    def rounds(self) -> bool:
        return self.precision == "int8"

    def rounding(self, model: PreTrainedModel) -> RoundOf:
        return lambda name, module: int8_by_channel if isinstance(module, nn.Linear) else int8_of_all

    @property
    def tolerance(self) -> float | None:
        return 1e-3 if self.precision == "float32" else None

    def export(self, source: Source, target: Path) -> None:
        from transformers.exporters import OnnxConfig, OnnxExporter

        exporter, config = OnnxExporter(), OnnxConfig(dynamic=True, quantizer=self._quantizer(source))
        about: dict[str, Any] = {
            "kind": self.kind,
            "precision": self.precision,
            "runtime": self.runtime,
            "packages": versions_of("onnx", "onnxruntime", "transformers"),
        }
        if source.about.answers == "target":
            # Of a table that is also looked up, numbers in 8 bits would be made whole again before each product.
            write_graphs(exporter, config, source, target, save=_save_both, own_head=self.rounds, **about)
        else:
            # Fused attention is taken apart into more steps than its plain form has.
            write_graph(exporter, config, source, target, attention="eager", model_file="model.onnx", **about)

    @property
    def scaled_on_rows(self) -> bool:
        return self.precision == "int8" and self.activations == "static"

    def _quantizer(self, source: Source) -> Any:
        if self.precision == "float32":
            return None
        from transformers.exporters import OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer, OnnxRuntimeStaticConfig

        if not self.scaled_on_rows:
            # A scale for each channel: one for a whole matrix is that of its largest channel.
            return OnnxRuntimeQuantizer(OnnxRuntimeDynamicConfig(per_channel=True))
        rows = list(source.calibration(self.calibration_rows))
        return OnnxRuntimeQuantizer(OnnxRuntimeStaticConfig(per_channel=True), calibration_dataset=rows)


def _save_both(graphs: Mapping[str, Any], folder: Path) -> tuple[str, str]:
    save_together({f"{name}.onnx": graph for name, graph in graphs.items()}, folder, "decoder.onnx.data")
    return "encoder.onnx", "decoder.onnx"
