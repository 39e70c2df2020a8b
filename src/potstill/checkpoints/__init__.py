"""What lies in a model's folder or file, found out before any weight is read."""

from potstill.checkpoints.files import check_files, stated_family
from potstill.checkpoints.gguf_headers import gguf_tensors
from potstill.checkpoints.pointers import stands_in
from potstill.checkpoints.safetensors_headers import tensor_shapes

__all__ = ["check_files", "gguf_tensors", "stands_in", "stated_family", "tensor_shapes"]
