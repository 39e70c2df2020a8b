"""A teacher from a folder, a hub id, or a model inside an installed package."""

from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field, model_serializer

from potstill.capabilities import Capability
from potstill.loaded_as import Quantization, WeightsType
from potstill.settings import ClassNames
from potstill.teachers.one_teacher import OneTeacher


class PretrainedTeacher(OneTeacher):
    """A Hugging Face model. Weights are read from safetensors, or for language models from a GGUF file."""

    kind: Literal["pretrained"] = "pretrained"
    model: str
    """A folder, a .gguf file, a hub id, or `pkg:package/path` for a model inside an installed package."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Off unless you have read that code."""
    classes: ClassNames = Field(default_factory=dict)
    """What the classes of the teacher's head are called in the data, such as {LABEL_0: neg, LABEL_1: pos}. One that is
    not named here has the same name in both."""

    dtype: Literal["auto", WeightsType] = "auto"
    """The type of the weights while the teacher answers. auto: as they are stored, where the device computes in it and
    label.precision asks for no other. What is computed of its last hidden states, and every loss, is in float32."""

    quantization: Quantization | None = Field(default=None, exclude_if=lambda value: value is None)
    """Hold the weights of the linear layers in so many bits while the teacher answers (bitsandbytes), for one that does
    not fit otherwise. The student is cut from the weights as they are stored."""
    device_map: Literal["auto"] | None = Field(default=None, exclude_if=lambda value: value is None)
    """auto: spread the layers over all GPUs of the machine, for a teacher that is larger than one of them."""

    @property
    def gives(self) -> frozenset[Capability]:
        return frozenset(Capability)

    @property
    def lead(self) -> "PretrainedTeacher":
        """The model whose family, tokenizer and first weights the student takes."""
        return self

    @property
    def title(self) -> str:
        """Who teaches, in a few words."""
        return self.model

    @property
    def described(self) -> str:
        """Who teaches, in a sentence."""
        return self.model

    @model_serializer(mode="wrap")
    def _as_before(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Without what is not set, so that a run from before it could be goes on."""
        values = handler(self)
        if self.dtype == "auto":
            del values["dtype"]
        if not self.classes:
            del values["classes"]
        return values
