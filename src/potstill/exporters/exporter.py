"""What exporters share: what they are told, what they need, and from what they make an artefact."""

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from potstill.artefacts.manifest import Manifest
from potstill.capabilities import Facts
from potstill.exporters.distil import RoundedTraining
from potstill.exporters.rounding import RoundOf
from potstill.settings import Settings

Inputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Source:
    """A saved model on its way out."""

    folder: Path
    load: Callable[[], PreTrainedModel]
    """The model, on the processor and in float32."""
    inputs: Inputs
    """Of a few texts of different lengths: what the model is called with."""
    calibration: Callable[[int], Iterator[Inputs]]
    """The same of single training rows, at most so many."""
    embedding_parameters: Callable[[PreTrainedModel], int]
    about: Manifest
    """What is known of the model, whatever it is exported to."""
    tokenizer: PreTrainedTokenizerBase
    texts: Callable[[], Sequence[str]]
    """Of a model that writes: the first test rows, as its tokenizer reads them."""
    own_code: bool = False
    """Whether code that lies beside its weights may run."""
    shared: Path | None = None
    """A folder, which may not be there yet, for what exports of this model can share while they are made."""

    def described(self, model: PreTrainedModel, **about: Any) -> Manifest:
        """What an artefact says of itself."""
        total = model.num_parameters()
        without = total - self.embedding_parameters(model)
        return replace(self.about, num_parameters=total, num_parameters_without_embeddings=without, **about)


class ExporterSettings(Settings, ABC):
    """An exporter of one kind."""

    runtime: ClassVar[str]
    """By which runtime its artefacts are judged."""
    extra: ClassVar[str | None] = None
    """The extra of the package that it needs."""
    libraries: ClassVar[Sequence[str]] = ()
    """The modules that come with it."""

    distil: RoundedTraining | None = None
    """Train the student on with the rounding of this form, before it is exported."""

    @property
    @abstractmethod
    def form(self) -> str:
        """What is made, whatever it is made of."""

    @property
    def name(self) -> str:
        """Of the artefact, and of its folder."""
        return self.form if self.distil is None else f"{self.form}-distilled"

    @property
    def same_files(self) -> bool:
        """Whether the artefact is the student's own files, so that all that was measured of it holds."""
        return False

    @property
    @abstractmethod
    def tolerance(self) -> float | None:
        """By how much an output may differ from the student's, as a share of the largest; None where numbers are
        rounded on purpose, so that the gate alone decides."""

    def missing(self) -> list[str]:
        """The modules that are not installed."""
        return [name for name in self.libraries if importlib.util.find_spec(name) is None]

    @property
    def rounds(self) -> bool:
        """Whether weights are rounded to few enough levels for a training to learn to live with."""
        return False

    def rounding(self, model: PreTrainedModel) -> RoundOf:
        """How the artefact rounds the weights of this model's linear layers and embeddings; none where it does not."""
        return lambda name, module: None

    def refusals(self, where: str, facts: Facts) -> Iterator[str]:
        """Why it cannot export models of this task."""
        if self.distil is not None and not self.rounds:
            yield f"{where}.distil: {self.form} does not round weights to a few levels. Leave distil out."
        elif self.distil is not None and facts.means:
            yield f"{where}.distil: not for numbers yet. Leave it out."

    def unready(self, where: str, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
        """What else is not there that it needs, or why it cannot export a student like this."""
        yield from ()

    @abstractmethod
    def export(self, source: Source, target: Path) -> None:
        """Write the artefact's own files into an empty folder, with its `artefact.json`."""


class GraphExporter(ExporterSettings):
    """One that writes a model as a graph, which is answered from without torch."""

    def refusals(self, where: str, facts: Facts) -> Iterator[str]:
        yield from super().refusals(where, facts)
        if facts.answers == "text":
            yield (
                f"{where}: graphs are of models with a head and of encoder-decoders, and those of {facts.task} are "
                "decoders alone. Export {kind: gguf} for llama.cpp, or {kind: safetensors}."
            )
        if facts.answers == "target" and self.distil is not None:
            yield f"{where}.distil: not for graphs of encoder-decoders yet. Leave it out."
        if facts.generative and self.scaled_on_rows:
            yield (
                f"{where}: {self.form} takes the scales of activations from training rows, which is not there for "
                "models that write. Leave out what asks for it."
            )

    @property
    @abstractmethod
    def scaled_on_rows(self) -> bool:
        """Whether activations are rounded with scales that training rows have shown."""


def ends_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end what a model writes, that of the tokenizer first."""
    ends = getattr(model.generation_config, "eos_token_id", None)
    named = ends if isinstance(ends, list) else [ends]
    return [end for end in dict.fromkeys([tokenizer.eos_token_id, *named]) if end is not None]


def versions_of(*packages: str) -> dict[str, str]:
    from importlib.metadata import version

    return {package: version(package) for package in packages}
