"""Exporters: from a passed student to what is shipped."""

from potstill.exporters.safetensors import Safetensors

# One member so far; a union with `kind` as its discriminator when there are two.
AnyExporter = Safetensors

__all__ = ["AnyExporter", "Safetensors"]
