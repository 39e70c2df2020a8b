"""A model as a graph, by the exporters of transformers, which are experimental: their versions are pinned."""

import contextlib
import io
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from potstill.artefacts.manifest import Manifest
from potstill.errors import ModelError
from potstill.exporters.exporter import Inputs, Source

CONFIGURATION = "config.json"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def write_graph(
    exporter: Any,
    config: Any,
    source: Source,
    target: Path,
    *,
    attention: str | None = None,
    inputs: Inputs | None = None,
    prepare: Callable[[PreTrainedModel], None] | None = None,
    **about: Any,
) -> None:
    """The graph and its weights, and all that lies beside them.

    `attention` is the implementation of transformers that is traced; by default the one that the model is loaded with.
    `inputs` are what it is traced with, by default those of the source. `prepare` changes the model before.

    Raises:
        ModelError: the model cannot be traced.
    """
    model = opened(source, attention)
    traced_with = dict(source.inputs if inputs is None else inputs)
    # Before anything is changed in it.
    described = source.described(model, inputs=tuple(traced_with), **about)
    with traced(source, model, about["kind"]):
        if prepare is not None:
            prepare(model)
        exported = exporter.export(model, traced_with, config=config)
        exported.save_pretrained(target)
    write_beside(source, described, target)


def opened(source: Source, attention: str | None) -> PreTrainedModel:
    """The model as it is traced."""
    model = source.load().eval()
    if attention is not None:
        model.set_attn_implementation(attention)
    return model


def write_beside(source: Source, described: Manifest, target: Path) -> None:
    """The configuration, the tokenizer, and what the artefact says of itself."""
    # As it was saved: what the exporter adds to it is of its own.
    shutil.copyfile(source.folder / CONFIGURATION, target / CONFIGURATION)
    for name in TOKENIZER:
        shutil.copyfile(source.folder / name, target / name)
    described.write(target)


@contextlib.contextmanager
def traced(source: Source, model: PreTrainedModel, kind: str) -> Iterator[None]:
    """Within, a model is traced and written.

    Raises:
        ModelError: it cannot be.
    """
    with quietly():
        try:
            yield
        except Exception as error:
            # Of many kinds: each part of these libraries has its own.
            first = str(error).strip().splitlines() or [type(error).__name__]
            raise ModelError(
                f"{source.folder}: a model of the family {model.config.model_type} could not be written as "
                f"{kind}: {first[0]} ({type(error).__name__}). Leave this exporter out, or choose another."
            ) from error


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without what these libraries print of their steps, and of versions that are pinned here."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
