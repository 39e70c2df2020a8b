"""The model card of one artefact, with Hugging Face's metadata, so that its folder can be pushed as it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from potstill.presentation.card import Card
from potstill.presentation.page import markdown_template
from potstill.presentation.tables import Quantity
from potstill.records import Artefact, PlanRecord, ShapeRecord

Origin = Literal["distilled", "untrained", "teacher"]
"""What a shipped model is: a student that was trained for what it is, one as it began, or the teacher itself."""

LIBRARIES = {
    "onnx": "onnx",
    "openvino": "openvino",
    "executorch": "executorch",
    "transformers": "transformers",
    "llama_cpp": "gguf",
}
"""As the hub calls what loads a model, by runtime."""
RUNTIME_NAMES = {"llama_cpp": "llama.cpp", "executorch": "ExecuTorch"}
"""Of runtimes that are not called as their key is."""


@dataclass(frozen=True)
class Licences:
    """As the recipe gives them, with what the model is for."""

    license: str | None = None
    teacher_license: str | None = None
    data_license: str | None = None
    intended_use: str | None = None
    limits: str | None = None


@dataclass(frozen=True)
class Asking:
    """How the model is asked, outside of this package."""

    script: bool
    """Whether `predict.py` lies in the folder."""
    example: str
    """A row of JSON that it reads."""
    loading: str
    """Python that loads it, where there is no script."""
    commands: str | None = None
    """Of a model that a server answers from: what starts and asks it."""
    needs: str = ""
    """What the script needs."""


def render_artefact_card(
    artefact: Artefact,
    *,
    title: str,
    card: Card,
    plan: PlanRecord,
    comparison: Sequence[Quantity],
    models: Sequence[str],
    tested: str,
    licences: Licences,
    asking: Asking,
    temperature: float,
    versions: Mapping[str, str],
    origin: Origin = "distilled",
) -> str:
    """The card in Markdown."""
    shape: ShapeRecord = plan.teacher if origin == "teacher" else plan.student
    return markdown_template("artefact_card.md.j2").render(
        artefact=artefact,
        title=title,
        card=card,
        plan=plan,
        comparison=comparison,
        models=models,
        tested=tested,
        licences=licences,
        asking=asking,
        temperature=temperature,
        versions=versions,
        origin=origin,
        shape=shape,
        library=LIBRARIES[artefact.runtime],
        runtime=RUNTIME_NAMES.get(artefact.runtime, artefact.runtime),
    )
