"""label: the training rows once through the frozen teacher, into the label store."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from potstill.data.batches import batches_by_length
from potstill.data.rows import texts_fingerprint
from potstill.labels import Auto, Dense, DensePositions, LabelSource, StoreWriter, bytes_per_position
from potstill.labels.positions import Columns
from potstill.labels.store import READABLE
from potstill.labels.writer import stored_positions
from potstill.recipe import Recipe
from potstill.records import AdaptRecord, LabelRecord
from potstill.run_dir import RunDir, file_digest, fingerprint
from potstill.stages.common import Inputs, alone, target_scaler_of
from potstill.stages.label_language import judged_temperatures, require_within_bound, write_positions
from potstill.stages.models import load_teacher
from potstill.stages.rendering import LABELLED, tokens_of, with_tokens
from potstill.tasks import TextClassification, TokenClassification
from potstill.teachers import FrozenTeacher
from potstill.training.engine import Engine

TEACHER = "teacher"
LAST_BITS = ("label.batch_size", "label.batches_per_shard")
"""Inputs of a store that decide only in which company a row is asked about."""
PRECISION = ("label.precision", "source.precision")


def is_round(name: str) -> bool:
    """Whether a teacher of this name is a student of an earlier generation."""
    return name.startswith("generation-")


def store_of(name: str) -> str:
    """Where the labels of a teacher of this name lie in a run."""
    return f"label/{name}/logits"


def label(
    run: RunDir, recipe: Recipe, inputs: Inputs, adapted: AdaptRecord, engine: Engine, name: str = TEACHER
) -> LabelRecord:
    """The soft labels of every training row, labelled or not; a language model's of the validation rows too.

    Nothing is stored where the teacher answers in each step of training, or no loss reads its distributions. Of several
    teachers, each has a store of its own, and the record counts all of them.
    """
    if inputs.members:
        records = [label(run, *one_of(recipe, inputs, adapted, member), engine, member) for member in inputs.members]
        return _together(records)
    if not recipe.reads_distributions or recipe.label.mode == "online":
        mode = "online" if recipe.reads_distributions else "not asked"
        made = _nothing_stored(adapted, asked=recipe.reads_distributions)
        return run.once(store_of(name), {"mode": mode, "teacher": adapted.digest}, LabelRecord, lambda _: made)
    source = label_source(recipe, inputs, adapted, engine)
    dense = isinstance(recipe.encoding, Dense)
    # All logits serve every temperature, and nothing is fitted or lost.
    read = {"batch_size", "batches_per_shard", "precision"} | (set() if dense else {"temperatures", "fit_positions"})
    judged = None
    if isinstance(recipe.encoding, Auto):
        # These decide which encoding is chosen.
        read.add("max_kl")
        judged = judged_temperatures(recipe)
    depends: dict[str, object] = {
        # The oldest that is read: a store of it holds the same as a new one.
        "format": READABLE[0],
        "judged": judged,
        "label": recipe.label.model_dump(mode="json", include=read) | {"precision": source.precision},
        "encoding": recipe.encoding,
        "source": source.model_copy(update={"tokens": None}),
    }
    auto = dict.fromkeys(PRECISION, engine.precision("auto"))
    where = store_of(name)
    depends = with_tokens(depends, source.tokens, run, where, recipe, inputs, last_bits=LAST_BITS, auto=auto)
    write = _write if dense else write_positions
    record = run.once(
        where,
        depends,
        LabelRecord,
        lambda folder: write(run, folder, recipe, inputs, adapted, source, engine),
        last_bits=LAST_BITS,
        auto=auto,
    )
    # Again, for the bound or the losses can have changed since the labels were made.
    require_within_bound(recipe, record.errors)
    return record


def one_of(recipe: Recipe, inputs: Inputs, adapted: AdaptRecord, member: str) -> tuple[Recipe, Inputs, AdaptRecord]:
    """What is asked of one of several teachers: the rows that all are asked about, not those that it was adapted on."""
    own, files = alone(recipe, inputs, member)
    return own, replace(files, splits=inputs.splits), adapted.members[member]


def _together(records: Sequence[LabelRecord]) -> LabelRecord:
    return LabelRecord(
        online=records[0].online,
        asked=records[0].asked,
        rows=records[0].rows,
        content_digest=fingerprint([record.content_digest for record in records]),
        size_bytes=sum(record.size_bytes for record in records),
        rows_per_s=min(record.rows_per_s for record in records),
        seconds=sum(record.seconds for record in records),
    )


def _nothing_stored(adapted: AdaptRecord, *, asked: bool) -> LabelRecord:
    return LabelRecord(online=asked, asked=asked, rows=0, content_digest=adapted.digest, size_bytes=0, rows_per_s=0.0)


def label_source(recipe: Recipe, inputs: Inputs, adapted: AdaptRecord, engine: Engine) -> LabelSource:
    return LabelSource(
        teacher=adapted.digest,
        tokenizer=inputs.tokenizer_digest,
        data=_answered(recipe, inputs),
        labels=tuple(inputs.labels),
        max_length=recipe.task.max_length,
        precision=engine.precision(recipe.label.precision),
        tokens=tokens_of(recipe, inputs),
    )


def _answered(recipe: Recipe, inputs: Inputs) -> str:
    """Fingerprint of all that the teacher's answers depend on in the data."""
    if isinstance(recipe.task, TokenClassification):
        # Where windows begin decides what is answered in which.
        texts = texts_fingerprint(inputs.splits["train"].rows)
        return fingerprint({"overlap": recipe.task.overlap, "rows": texts})
    if isinstance(recipe.encoding, Dense):
        return texts_fingerprint(inputs.splits["train"].rows)
    # Each example is labelled by itself, however they are packed.
    task = recipe.task.model_dump(mode="json", exclude={"packing"})
    return fingerprint({"task": task, "rows": [inputs.fingerprint_of(name) for name in LABELLED]})


def _write(
    run: RunDir,
    folder: Path,
    recipe: Recipe,
    inputs: Inputs,
    adapted: AdaptRecord,
    source: LabelSource,
    engine: Engine,
) -> LabelRecord:
    settings, encoding = recipe.label, recipe.encoding
    assert isinstance(encoding, Dense)
    # None where words are answered and not whole rows.
    problem = recipe.task.problem if isinstance(recipe.task, TextClassification) else None
    rows = inputs.encoded(recipe, inputs.splits["train"].rows)
    model = load_teacher(recipe, run, adapted)
    scaler = target_scaler_of(recipe, inputs.splits["train"].rows)
    if scaler:
        # In half precision numbers far from zero would lose what tells them apart.
        scaler.standardise(model)
    teacher = FrozenTeacher(model, engine.device, recipe.task.ask)
    at_words = DensePositions(dtype=encoding.dtype, classes=len(inputs.labels))
    words = problem is None
    asked = 0

    def ask(indices: Sequence[int]) -> Tensor | tuple[Sequence[int], Columns]:
        nonlocal asked
        asked += len(indices)
        batch = rows.collate(indices)
        with engine.autocast(settings.precision):
            signals = teacher(batch)
        if problem is not None:
            outputs = problem.outputs(signals).float()
            return scaler.unscaled(outputs) if scaler else outputs
        assert signals.logits is not None
        counts: list[int] = batch.mask.sum(dim=1).tolist()
        return counts, at_words.encode(signals.logits[batch.mask.to(signals.logits.device)])

    started = time.monotonic()
    with run.progress.task("label", len(rows.ids), "rows") as advance:
        manifest = StoreWriter(folder, at_words if words else encoding, source).write(
            rows.ids,
            batches_by_length(rows.lengths, settings.batch_size),
            settings.batches_per_shard,
            ask,
            advance,
        )
    seconds = time.monotonic() - started
    names = ["manifest.json", "manifest.json.sha256", *(shard.file for shard in manifest.shards)]
    return LabelRecord(
        rows=manifest.rows,
        content_digest=manifest.content_digest,
        size_bytes=sum((folder / name).stat().st_size for name in names),
        rows_per_s=round(asked / seconds, 1) if seconds else 0.0,
        positions=stored_positions(folder, manifest) if words else None,
        bytes_per_position=bytes_per_position(at_words.columns) if words else None,
        files={name: file_digest(folder / name) for name in names},
    )
