"""label, for language models: an encoding is fitted and measured, then the teacher speaks at each trained token."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import load_file
from torch import Tensor

from potstill.data.batches import batches_by_length
from potstill.data.rows import OWN_ID
from potstill.data.splits import stable_order
from potstill.data.token_rows import TokenRows
from potstill.errors import DataError, LabelStoreError
from potstill.labels import (
    Auto,
    Dense,
    Fitted,
    LabelSource,
    LowRank,
    PositionEncoding,
    StoreWriter,
    bytes_per_position,
)
from potstill.labels.encodings import CANDIDATES, load_codec
from potstill.labels.error import measure_error
from potstill.labels.positions import Columns
from potstill.labels.store import CODEC, FITTED
from potstill.labels.writer import forget_shards, write_codec
from potstill.recipe import Recipe
from potstill.records import AdaptRecord, LabelFidelity, LabelRecord
from potstill.run_dir import RunDir, file_digest, write_text
from potstill.stages.common import Inputs
from potstill.stages.models import load_teacher
from potstill.stages.rendering import LABELLED, labelled_tokens
from potstill.targets import Head, HiddenTargets
from potstill.tasks.generative import generative
from potstill.teachers import FrozenTeacher
from potstill.training.engine import Engine

MIN_SAMPLE = 16


class _FittedFile(BaseModel):
    """What was found before the first label, so that a resumed job does not find it again, a little differently."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoding: PositionEncoding = Field(discriminator="kind")
    errors: tuple[LabelFidelity, ...]
    codec_sha256: str | None


@dataclass(frozen=True)
class _Sample:
    """Hidden states that an encoding is fitted on, and others on which it is measured."""

    fit: Tensor
    measure: Tensor
    head: Head
    temperatures: tuple[float, ...]

    def fitted(self, encoding: PositionEncoding) -> Fitted:
        codec = encoding.fit(self.fit, self.head, self.temperatures)
        served = (1.0,) if encoding.kind == "sampled" else with_those_between(self.temperatures)
        errors = measure_error(codec, self.measure, self.head, served)
        return Fitted(encoding, codec, len(self.head.weight), self.temperatures, errors)


def write_positions(
    run: RunDir,
    folder: Path,
    recipe: Recipe,
    inputs: Inputs,
    adapted: AdaptRecord,
    source: LabelSource,
    engine: Engine,
) -> LabelRecord:
    """The store of all trained positions of the training and the validation rows.

    Raises:
        DataError: parts of two rows with one name.
        LabelStoreError: the encoding loses more than the recipe accepts; names one that would do.
    """
    settings = recipe.label
    task = generative(recipe.task)
    rows = labelled_tokens(recipe, inputs)
    if (repeated := rows.examples.first_repeated()) is not None:
        raise DataError(f'Duplicate id "{rows.ids[repeated]}", after long rows were cut. {OWN_ID}')
    model = load_teacher(recipe, run, adapted)
    teacher = FrozenTeacher(model, engine.device, recipe.task.ask)
    head = task.head_of(model)

    def hidden_of(indices: Sequence[int]) -> Tensor:
        with engine.autocast(settings.precision):
            outputs = teacher(rows.collate(indices)).target
        assert isinstance(outputs, HiddenTargets)
        return outputs.hidden.float()

    started = time.monotonic()
    asked = 0
    with torch.inference_mode():
        fitted = _fit_or_load(run, folder, recipe, rows, head, hidden_of)
        plan = batches_by_length(rows.lengths, settings.batch_size)
        counts = rows.examples.trained_counts

        def ask(indices: Sequence[int]) -> tuple[list[int], Columns]:
            nonlocal asked
            asked += len(indices)
            return counts[list(indices)].tolist(), encoded(fitted, hidden_of(indices), head)

        with run.progress.task("label", len(rows.ids), "rows") as advance:
            writer = StoreWriter(folder, fitted, source)
            manifest = writer.write(rows.ids, plan, settings.batches_per_shard, ask, advance)
    seconds = time.monotonic() - started
    names = ["manifest.json", "manifest.json.sha256", *(shard.file for shard in manifest.shards)]
    names += [CODEC] if (folder / CODEC).exists() else []
    assert manifest.positions is not None
    return LabelRecord(
        rows=manifest.rows,
        content_digest=manifest.content_digest,
        size_bytes=sum((folder / name).stat().st_size for name in names),
        rows_per_s=round(asked / seconds, 1) if seconds else 0.0,
        positions=manifest.positions.positions,
        bytes_per_position=bytes_per_position(fitted.codec.columns),
        errors=fitted.errors,
        files={name: file_digest(folder / name) for name in [*names, FITTED]},
    )


def encoded(fitted: Fitted, hidden: Tensor, head: Head) -> Columns:
    """The columns of these positions, of which a few have their logits at a time."""
    pieces = [fitted.codec.encode(piece, head.logits(piece)) for piece in torch.split(hidden, head.chunk_rows)]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in fitted.codec.columns}


def _fit_or_load(
    run: RunDir,
    folder: Path,
    recipe: Recipe,
    rows: TokenRows,
    head: Head,
    hidden_of: Callable[[Sequence[int]], Tensor],
) -> Fitted:
    known = _read_fitted(folder, recipe, len(head.weight))
    if known is not None:
        return known
    run.progress.line("label: fitting the encoding")
    sample = _sample(recipe, rows, head, hidden_of)
    fitted = _chosen(recipe, sample)
    # Shards that were written with another codec would be read as if with this one.
    forget_shards(folder)
    digest = write_codec(folder, fitted.codec)
    write_text(
        folder / FITTED,
        _FittedFile(encoding=fitted.encoding, errors=fitted.errors, codec_sha256=digest).model_dump_json(),
    )
    return fitted


def _chosen(recipe: Recipe, sample: _Sample) -> Fitted:
    """The recipe's encoding, or the smallest that is within the bound.

    Raises:
        LabelStoreError: it is over the bound, or nothing is within it.
    """
    encoding = recipe.encoding
    assert not isinstance(encoding, Dense)
    proposal = None
    if isinstance(encoding, Auto):
        proposal = _smallest_within(recipe, sample)
        if proposal is not None:
            return proposal
        encoding = CANDIDATES[-1]
    fitted = sample.fitted(encoding)
    over = over_the_bound(recipe, fitted.errors)
    if over is None:
        return fitted
    if not isinstance(recipe.encoding, Auto):
        proposal = _smallest_within(recipe, sample)
    raise LabelStoreError(_refusal(recipe, fitted, over, proposal))


def _smallest_within(recipe: Recipe, sample: _Sample) -> Fitted | None:
    """The smallest of the candidates whose measured error is within the bound."""
    vocabulary, width = sample.head.weight.shape

    def size(encoding: PositionEncoding) -> int:
        return bytes_per_position(encoding.columns(vocabulary, width, sample.temperatures))

    for encoding in sorted(CANDIDATES, key=size):
        if isinstance(encoding, LowRank) and sample.head.soft_cap is not None:
            continue  # not linear in the hidden state
        fitted = sample.fitted(encoding)
        if over_the_bound(recipe, fitted.errors) is None:
            return fitted
    return None


def _read_fitted(folder: Path, recipe: Recipe, vocabulary: int) -> Fitted | None:
    grid = recipe.label.temperatures
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


def _sample(recipe: Recipe, rows: TokenRows, head: Head, hidden_of: Callable[[Sequence[int]], Tensor]) -> _Sample:
    """States at positions of rows that a stable hash chose: three quarters to fit, one to measure."""
    counts = rows.examples.trained_counts
    order = stable_order(range(len(rows.ids)), lambda index: rows.ids[index], salt="fit")
    wanted = min(recipe.label.fit_positions * 4 // 3, int(counts.sum()))
    chosen, found = [], 0
    for index in order:
        if found >= wanted:
            break
        chosen.append(index)
        found += int(counts[index])
    size = recipe.label.batch_size
    states = torch.cat([hidden_of(chosen[start : start + size]) for start in range(0, len(chosen), size)])
    if len(states) < MIN_SAMPLE:
        raise LabelStoreError(
            f"label: {len(states)} trained tokens in {' and '.join(LABELLED)}; at least {MIN_SAMPLE} are needed to fit "
            "an encoding and measure its error. Add rows."
        )
    # Rows are whole on one side, but for the one in which the cut falls.
    cut = len(states) * 3 // 4
    return _Sample(states[:cut], states[cut:], head, recipe.label.temperatures)


def require_within_bound(recipe: Recipe, errors: Sequence[LabelFidelity]) -> None:
    """Compare the measured error of stored labels with what the recipe accepts.

    Raises:
        LabelStoreError: it is more at a temperature that the losses use.
    """
    over = over_the_bound(recipe, errors)
    if over is not None:
        raise LabelStoreError(
            f"label: the stored labels are {over.kl:.3f} nats from the teacher at temperature {over.temperature:g}, "
            f"which the losses use; label.max_kl is {recipe.label.max_kl:g}. Raise it, choose a larger "
            "label.encoding, or another temperature."
        )


def over_the_bound(recipe: Recipe, errors: Sequence[LabelFidelity]) -> LabelFidelity | None:
    """The worst error where the losses read the labels, if it is more than the recipe accepts."""
    bound = recipe.label.max_kl
    span = judged_temperatures(recipe)
    judged = [each for each in errors if span[0] <= each.temperature <= span[-1] and each.kl is not None]
    if bound is None or not judged:
        return None

    def far(error: LabelFidelity) -> float:
        # What is no number is no measurement, and passes nothing.
        return error.kl if error.kl is not None and math.isfinite(error.kl) else math.inf

    worst = max(judged, key=far)
    return worst if far(worst) > bound else None


def with_those_between(grid: Sequence[float]) -> tuple[float, ...]:
    """The temperatures of the grid and, between each two, the one that is farthest from both: there, too, a schedule
    reads the labels, and the mass of the tail is interpolated."""
    return tuple(sorted([*grid, *(math.sqrt(low * high) for low, high in pairwise(grid))]))


def judged_temperatures(recipe: Recipe) -> tuple[float, ...]:
    """The temperatures of the grid that the losses use, with the nearest ones around them."""
    low, high = recipe.temperatures_used
    grid = recipe.label.temperatures
    first = max(known for known in grid if known <= low)
    last = min(known for known in grid if known >= high)
    return tuple(known for known in grid if first <= known <= last)


def _refusal(recipe: Recipe, fitted: Fitted, over: LabelFidelity, proposal: Fitted | None) -> str:
    sentence = (
        f"label.encoding: {_shown(fitted)} is {over.kl:.3f} nats from the teacher at temperature "
        f"{over.temperature:g}, where the stored tokens have {over.captured_mass:.0%} of the mass; label.max_kl is "
        f"{recipe.label.max_kl:g}."
    )
    if proposal is None:
        return f"{sentence} No encoding that was tried is within it; raise label.max_kl, or use a lower temperature."
    error = next(each for each in proposal.errors if each.temperature == over.temperature)
    return f"{sentence} {_shown(proposal)} would do, with {error.kl:.3f}. Or raise label.max_kl."


def _shown(fitted: Fitted) -> str:
    values: dict[str, Any] = fitted.encoding.model_dump()
    inside = ", ".join(f"{key}: {value}" for key, value in values.items())
    return f"{{{inside}}} ({bytes_per_position(fitted.codec.columns)} bytes a position)"
