"""Fitting and choosing an encoding of a language model's labels, before the first label is written.

It is fitted on the hidden states of some rows and measured on those of others. What was found is on disk beside the
shards, so that a resumed job does not find it again, a little differently.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import load_file
from torch import Tensor

from potstill.data.encoded import Encoded
from potstill.data.splits import stable_order
from potstill.errors import LabelStoreError
from potstill.labels.encodings import CANDIDATES, Auto, PositionEncoding, load_codec
from potstill.labels.error import measure_error
from potstill.labels.fidelity import Bound
from potstill.labels.positions import bytes_per_position
from potstill.labels.store import CODEC, FITTED
from potstill.labels.writer import Fitted, forget_shards, write_codec
from potstill.progress import Progress
from potstill.records import LabelFidelity
from potstill.run_dir import file_digest, write_text
from potstill.signals import Batch
from potstill.targets import Head

MIN_SAMPLE = 16


@dataclass(frozen=True)
class FitSettings:
    """What is asked of an encoding."""

    encoding: PositionEncoding | Auto
    temperatures: tuple[float, ...]
    """The grid that it must serve."""
    bound: Bound
    positions: int
    """How many it is fitted on; a third as many measure its error."""
    batch_size: int
    splits: tuple[str, ...]
    """Of which the rows are, as the recipe names them."""


@dataclass(frozen=True)
class Sample:
    """Hidden states that an encoding is fitted on, and others on which it is measured."""

    fit: Float[Tensor, "fitted width"]
    measure: Float[Tensor, "measured width"]
    head: Head
    temperatures: tuple[float, ...]

    def fitted(self, encoding: PositionEncoding) -> Fitted:
        codec = encoding.fit(self.fit, self.head, self.temperatures)
        served = (1.0,) if encoding.kind == "sampled" else with_those_between(self.temperatures)
        errors = measure_error(codec, self.measure, self.head, served)
        return Fitted(encoding, codec, len(self.head.weight), self.temperatures, errors)


class _FittedFile(BaseModel):
    """What was found before the first label."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoding: PositionEncoding = Field(discriminator="kind")
    errors: tuple[LabelFidelity, ...]
    codec_sha256: str | None


@torch.inference_mode()
def fit_encoding(
    folder: Path,
    rows: Encoded,
    forward: Callable[[Batch], Tensor],
    head: Head,
    settings: FitSettings,
    progress: Progress,
) -> Fitted:
    """The encoding that a store was begun with, or the one that is asked for, fitted to a teacher and measured.

    `forward` gives the teacher's last hidden states at the unmasked positions of a batch.

    Raises:
        LabelStoreError: too few positions, what lies in the folder is damaged, or the encoding loses more than the
            bound; names one that would do.
    """
    known = _read_fitted(folder, settings.temperatures, len(head.weight))
    if known is not None:
        return known
    progress.line("label: fitting the encoding")
    fitted = choose_encoding(draw_sample(rows, forward, head, settings), settings)
    # Shards that were written with another codec would be read as if with this one.
    forget_shards(folder)
    digest = write_codec(folder, fitted.codec)
    write_text(
        folder / FITTED,
        _FittedFile(encoding=fitted.encoding, errors=fitted.errors, codec_sha256=digest).model_dump_json(),
    )
    return fitted


def choose_encoding(sample: Sample, settings: FitSettings) -> Fitted:
    """The encoding that is asked for, or the smallest that is within the bound.

    Raises:
        LabelStoreError: it is over the bound, or nothing is within it.
    """
    asked = settings.encoding
    if isinstance(asked, Auto):
        smallest = smallest_within(sample, settings.bound)
        if smallest is not None:
            return smallest
    fitted = sample.fitted(CANDIDATES[-1] if isinstance(asked, Auto) else asked)
    over = settings.bound.exceeded_by(fitted.errors)
    if over is None:
        return fitted
    proposal = None if isinstance(asked, Auto) else smallest_within(sample, settings.bound)
    raise LabelStoreError(_refusal(settings.bound, fitted, over, proposal))


def smallest_within(sample: Sample, bound: Bound) -> Fitted | None:
    """The smallest of the candidates whose measured error is within the bound."""
    vocabulary, width = sample.head.weight.shape

    def size(encoding: PositionEncoding) -> int:
        return bytes_per_position(encoding.columns(vocabulary, width, sample.temperatures))

    for encoding in sorted(CANDIDATES, key=size):
        fitted = sample.fitted(encoding)
        if bound.exceeded_by(fitted.errors) is None:
            return fitted
    return None


def draw_sample(rows: Encoded, forward: Callable[[Batch], Tensor], head: Head, settings: FitSettings) -> Sample:
    """Hidden states at positions of rows that a stable hash chose: three quarters to fit, one to measure.

    Raises:
        LabelStoreError: the rows have too few positions.
    """
    counts = np.asarray(rows.positions)
    order = stable_order(range(len(rows.ids)), lambda index: rows.ids[index], salt="fit")
    wanted = min(settings.positions * 4 // 3, int(counts.sum()))
    chosen, drawn = [], 0
    for index in order:
        if drawn >= wanted:
            break
        chosen.append(index)
        drawn += int(counts[index])
    size = settings.batch_size
    batches = (rows.collate(chosen[start : start + size]) for start in range(0, len(chosen), size))
    states = torch.cat([forward(batch) for batch in batches])
    if len(states) < MIN_SAMPLE:
        raise LabelStoreError(
            f"label: {len(states)} trained tokens in {' and '.join(settings.splits)}; at least {MIN_SAMPLE} are needed "
            "to fit an encoding and measure its error. Add rows."
        )
    # Rows are whole on one side, but for the one in which the cut falls.
    cut = len(states) * 3 // 4
    return Sample(states[:cut], states[cut:], head, settings.temperatures)


def with_those_between(grid: Sequence[float]) -> tuple[float, ...]:
    """The temperatures of the grid and, between each two, the one that is farthest from both: there, too, a schedule
    reads the labels, and the mass of the tail is interpolated."""
    return tuple(sorted([*grid, *(math.sqrt(low * high) for low, high in pairwise(grid))]))


def _read_fitted(folder: Path, grid: tuple[float, ...], vocabulary: int) -> Fitted | None:
    if not (folder / FITTED).exists():
        return None
    try:
        known = _FittedFile.model_validate_json((folder / FITTED).read_bytes())
    except ValidationError as error:
        raise LabelStoreError(
            f"{folder / FITTED}: damaged ({error.errors()[0]['msg']}). Remove {folder} and run potstill label, which "
            "makes all labels anew."
        ) from None
    encoding = known.encoding
    tensors: dict[str, Tensor] = {}
    if known.codec_sha256 is not None:
        if not (folder / CODEC).exists() or file_digest(folder / CODEC) != known.codec_sha256:
            return None
        tensors = load_file(folder / CODEC)
    codec = load_codec(encoding, tensors, vocabulary=vocabulary, temperatures=grid)
    return Fitted(encoding, codec, vocabulary, grid, known.errors)


def _refusal(bound: Bound, fitted: Fitted, over: LabelFidelity, proposal: Fitted | None) -> str:
    sentence = (
        f"label.encoding: {_shown(fitted)} is {over.kl:.3f} nats from the teacher at temperature "
        f"{over.temperature:g}, where the stored tokens have {over.captured_mass:.0%} of the mass; label.max_kl is "
        f"{bound.max_kl:g}."
    )
    if proposal is None:
        return f"{sentence} No encoding that was tried is within it; raise label.max_kl, or use a lower temperature."
    error = next(each for each in proposal.errors if each.temperature == over.temperature)
    return f"{sentence} {_shown(proposal)} would do, with {error.kl:.3f}. Or raise label.max_kl."


def _shown(fitted: Fitted) -> str:
    values: dict[str, Any] = fitted.encoding.model_dump()
    inside = ", ".join(f"{key}: {value}" for key, value in values.items())
    return f"{{{inside}}} ({bytes_per_position(fitted.columns)} bytes a position)"
