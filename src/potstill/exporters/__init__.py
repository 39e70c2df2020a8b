"""Exporters: from a passed student to what is shipped.

An exporter writes an artefact's folder, and says by which runtime it is judged (`runtime`), by how much its outputs may
differ from the student's where nothing is rounded on purpose (`tolerance`), and which libraries it needs (`libraries`).
"""

from typing import Annotated

from pydantic import Field

from potstill.exporters.executorch import ExecuTorch
from potstill.exporters.exporter import ExporterSettings, Source
from potstill.exporters.gguf import Gguf
from potstill.exporters.onnx import Onnx
from potstill.exporters.openvino import OpenVino
from potstill.exporters.safetensors import Safetensors

AnyExporter = Annotated[Safetensors | Onnx | OpenVino | ExecuTorch | Gguf, Field(discriminator="kind")]

__all__ = ["AnyExporter", "ExecuTorch", "ExporterSettings", "Gguf", "Onnx", "OpenVino", "Safetensors", "Source"]
