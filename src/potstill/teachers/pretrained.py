"""A teacher from a folder, a hub id, or a model inside an installed package."""

from typing import Literal

from potstill.settings import Settings


class PretrainedTeacher(Settings):
    """A Hugging Face model. Weights are read from safetensors, or for language models from a GGUF file."""

    kind: Literal["pretrained"] = "pretrained"
    model: str
    """A folder, a .gguf file, a hub id, or `pkg:package/path` for a model inside an installed package."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Off unless you have read that code."""
