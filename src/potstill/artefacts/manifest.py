"""`artefact.json`: what lies in a shipped folder, and all that it takes to ask the model there."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from potstill.errors import ModelError
from potstill.run_dir import write_json

FILE = "artefact.json"
FORMAT = 1


@dataclass(frozen=True)
class Manifest:
    """A shipped model. Labels are in the order of its outputs."""

    kind: str
    """As the recipe calls its exporter."""
    precision: str
    runtime: str
    """Who answers from it, one of `RUNTIMES`."""
    model_file: str
    """Of one that reads and writes by two graphs, the decoder's."""
    task: str
    answers: str
    """What it answers with: one class, several labels, a number, tags or text."""
    labels: tuple[str, ...] = ()
    max_length: int = 0
    """Tokens that are read at a time."""
    overlap: int = 0
    """Of documents that are read in windows: pieces that neighbours share."""
    truncation_side: str = "right"
    pad_id: int = 0
    """The token that texts are padded with which are read together."""
    inputs: tuple[str, ...] = ()
    """What the graph is given, by name."""
    temperature: float = 1.0
    """What logits are divided by before they are probabilities, fitted on validation rows."""
    num_parameters: int = 0
    num_parameters_without_embeddings: int = 0
    lengths: tuple[int, ...] = ()
    """Of what its speed was measured with: tokens of texts and prompts, words of documents."""
    encoder_file: str = ""
    """Of one that reads and writes by two graphs, the encoder's."""
    start_token: int = 0
    """What its decoder is shown before the first token of a target."""
    end_tokens: tuple[int, ...] = ()
    """Those that end a target, that of the tokenizer first."""
    max_target_length: int = 0
    """The longest target in tokens, with the one that ends it."""
    packages: Mapping[str, str] = field(default_factory=dict)
    """With which versions it was made."""
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        write_json(folder / FILE, asdict(self))


def read_manifest(folder: Path) -> Manifest:
    """What a folder says of itself.

    Raises:
        ModelError: it is no shipped folder, or one of a later version.
    """
    try:
        values: dict[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if values.get("format") != FORMAT:
            raise ModelError(
                f"{folder / FILE}: format {values.get('format')!r}, and this version reads {FORMAT}. Export it anew."
            )
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return Manifest(**values)
    except FileNotFoundError:
        raise ModelError(
            f"{folder}: no {FILE}, so it is no exported model. Give a folder below export/ of a run directory."
        ) from None
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"{folder / FILE}: cannot be read ({error}). Export it anew.") from None
