"""What lies in a model's folder or file, found out before any weight is read."""

from potstill.checkpoints.files import check_files, stated_family
from potstill.checkpoints.gguf_headers import gguf_tensors
from potstill.checkpoints.pointers import stands_in
from potstill.checkpoints.safetensors_headers import Stored, stored_tensors, tensor_shapes
from potstill.checkpoints.same_rows import same_rows

__all__ = [
    "Stored",
    "check_files",
    "gguf_tensors",
    "same_rows",
    "stands_in",
    "stated_family",
    "stored_tensors",
    "tensor_shapes",
]
