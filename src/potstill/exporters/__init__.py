"""Exporters: from a passed student to what is shipped.

An exporter writes an artefact, and says by which runtime it is judged, by how much its logits may differ from the
student's (`tolerance`), and how large it is.
"""

from potstill.exporters.safetensors import Safetensors

# One member so far; a union with `kind` as its discriminator when there are two.
AnyExporter = Safetensors

__all__ = ["AnyExporter", "Safetensors"]
