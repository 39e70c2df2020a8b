"""A teacher from a folder, a hub id, or a model inside an installed package."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_serializer

from potstill.capabilities import Capability
from potstill.teachers.one_teacher import OneTeacher


def _as_text(value: Any) -> Any:
    """Names that YAML reads as numbers, as many heads have them."""
    if not isinstance(value, dict):
        return value
    return {_word(name): _word(label) for name, label in value.items()}


def _word(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _one_to_one(classes: dict[str, str]) -> dict[str, str]:
    labels = list(classes.values())
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise ValueError(f"two classes of the head are {twice[0]!r} of the data; each needs a name of its own.")
    return classes


class PretrainedTeacher(OneTeacher):
    """A Hugging Face model. Weights are read from safetensors, or for language models from a GGUF file."""

    kind: Literal["pretrained"] = "pretrained"
    model: str
    """A folder, a .gguf file, a hub id, or `pkg:package/path` for a model inside an installed package."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Off unless you have read that code."""
    classes: Annotated[dict[str, str], BeforeValidator(_as_text), AfterValidator(_one_to_one)] = Field(
        default_factory=dict
    )
    """What the classes of the teacher's head are called in the data, such as {LABEL_0: neg, LABEL_1: pos}. One that is
    not named here has the same name in both."""

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
        """Without names of classes where there are none, so that a run from before there were any goes on."""
        values = handler(self)
        if not self.classes:
            del values["classes"]
        return values
