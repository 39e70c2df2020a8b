"""OpenVINO for processors and accelerators of Intel."""

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field
from transformers import PreTrainedModel

from potstill.exporters.encoder_decoders import write_graphs
from potstill.exporters.exporter import GraphExporter, Source, versions_of
from potstill.exporters.onnx import CALIBRATION_ROWS
from potstill.exporters.rounding import RoundOf, int8_between_extremes
from potstill.exporters.tracing import write_graph


class OpenVino(GraphExporter):
    """A graph for OpenVINO, in float32, or in 8 bits by NNCF."""

    kind: Literal["openvino"] = "openvino"
    precision: Literal["float32", "int8"] = "int8"
    quantize: Literal["weights", "full"] = "weights"
    """Of int8: the weights alone, or activations too, with scales from training rows."""
    calibration_rows: int = Field(default=CALIBRATION_ROWS, ge=1)
    runtime: ClassVar[str] = "openvino"
    extra: ClassVar[str | None] = "openvino"
    libraries: ClassVar[tuple[str, ...]] = ("openvino", "nncf")

    @property
    def form(self) -> str:
        return f"{self.kind}-{self.precision}{'-full' if self.scaled_on_rows else ''}"

    @property
    def rounds(self) -> bool:
        return self.precision == "int8"

    def rounding(self, model: PreTrainedModel) -> RoundOf:
        return lambda name, module: int8_between_extremes

    @property
    def tolerance(self) -> float | None:
        return 1e-3 if self.precision == "float32" else None

    def export(self, source: Source, target: Path) -> None:
        _tell_nobody()
        from transformers.exporters import OpenVINOConfig, OpenVINOExporter

        # Keys and values of earlier tokens are given and taken by name, as in all runtimes.
        exporter, config = (
            OpenVINOExporter(),
            OpenVINOConfig(dynamic=True, quantizer=self._quantizer(source), stateful=False),
        )
        about: dict[str, Any] = {
            "kind": self.kind,
            "precision": self.precision,
            "runtime": self.runtime,
            "packages": versions_of("openvino", "nncf", "transformers"),
        }
        if source.about.answers == "target":
            write_graphs(exporter, config, source, target, save=partial(_save_both, exporter), **about)
        else:
            write_graph(exporter, config, source, target, model_file="openvino_model.xml", **about)

    @property
    def scaled_on_rows(self) -> bool:
        return self.precision == "int8" and self.quantize == "full"

    def _quantizer(self, source: Source) -> Any:
        if self.precision == "float32":
            return None
        from transformers.exporters import (
            NNCFOpenVINOQuantizer,
            NNCFQuantizationConfig,
            NNCFWeightCompressionConfig,
        )

        if not self.scaled_on_rows:
            return NNCFOpenVINOQuantizer(NNCFWeightCompressionConfig())
        rows = list(source.calibration(self.calibration_rows))
        return NNCFOpenVINOQuantizer(NNCFQuantizationConfig(subset_size=len(rows)), calibration_dataset=rows)


def _save_both(exporter: Any, graphs: Mapping[str, Any], folder: Path) -> tuple[str, str]:
    names = {name: f"openvino_{name}.xml" for name in graphs}
    for name, graph in graphs.items():
        exporter.save_program(graph, folder / names[name])
    return names["encoder"], names["decoder"]


def _tell_nobody() -> None:
    """These libraries send what is converted, and where, to their makers, unless the module that does is not there."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
