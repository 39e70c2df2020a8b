"""plan: what will happen, with counts and sizes, before any work; refuses what cannot go well."""

import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from transformers import PretrainedConfig

from potstill.cross_tokenizer import PLAIN, UNKNOWN
from potstill.data.chat_tokens import marked_text
from potstill.data.encoded import Encoded, EncodedRows
from potstill.data.generated import GeneratedResponse
from potstill.data.prepare import Split
from potstill.data.reading import FileNotes
from potstill.data.rows import labelled_rows
from potstill.data.token_rows import TokenRows
from potstill.data.words import EncodedWords
from potstill.errors import RecipeError
from potstill.evaluation.harness_gate import require_harness
from potstill.evaluation.queries import require_measurable, thresholds_upside_down
from potstill.labels import Dense, bytes_per_position
from potstill.losses import Shapes
from potstill.recipe import OptimiserSettings, Recipe
from potstill.records import (
    LoraRecord,
    OtherTokensRecord,
    PlanRecord,
    ShapeRecord,
    SharedTokensRecord,
    SplitCounts,
    TokensRecord,
)
from potstill.run_dir import RunDir
from potstill.signals import Signal
from potstill.stages.class_counts import class_counts
from potstill.stages.exportable import require_exportable
from potstill.stages.generate import planned
from potstill.stages.inputs import Inputs
from potstill.stages.judged_rows import case_of
from potstill.stages.lora import planned_lora
from potstill.stages.other_tokens import aligned_rows, doubts_about_answers
from potstill.stages.piece_counts import piece_counts
from potstill.stages.plan_warnings import warnings
from potstill.stages.rendering import LABELLED
from potstill.stages.signal_sources import build_loss, planned_signals
from potstill.stages.student_search import shape_of, skeleton_of
from potstill.stages.tokenizer_fit import doubts_about_own_tokenizer, doubts_about_tokenizer, unknown_shares
from potstill.students import Pretrained
from potstill.training.metrics import require_trackers
from potstill.training.optimisers import require_optimiser
from potstill.training.passes import require_passes

BYTES_PER_PARAMETER = 4
"""On disk in a model, and in a checkpoint beside the moments of the optimiser."""
BYTES_OF_MOMENTS = {"float32": 8.0, "bfloat16": 4.0, "8bit": 2.0 + 2 * 4 / 256}
"""Of both moments of a trained parameter; in 8 bits with a scale for each block of 256."""
SAMPLED_EXAMPLES = 500
"""Of validation, that are aligned with the teacher's for the plan."""
GIVEN_TEACHER = "teacher"
"""The folder of the run directory for a teacher that was given as a loaded model: no stage writes there."""


def plan(run: RunDir, recipe: Recipe, inputs: Inputs) -> PlanRecord:
    """Record the plan in the run directory.

    Raises:
        RecipeError: a teacher that lies in the run directory; and as `make_plan`, `require_measurable` and
            `require_harness`.
    """
    for files in (inputs.lead, *inputs.members.values()):
        where = Path(files.location)
        inside = where.exists() and where.resolve().is_relative_to(run.root.resolve())
        if inside and where.resolve() != run.path(GIVEN_TEACHER).resolve():
            raise RecipeError(
                f"teacher: {files.location} lies in the run directory {run.root}, where this run's student would take "
                "its place. Give --out another folder."
            )
    # What it looks at decides nothing of the plan, so one that is kept must not skip it.
    require_measurable(case_of(recipe, inputs, run.progress))
    require_harness(recipe, inputs.harness)
    require_exportable(recipe, inputs)
    for warning in thresholds_upside_down(recipe.gate, recipe.task.answers):
        run.progress.line(f"warning: {warning}")
    depends = {
        "recipe": recipe.model_dump(mode="json", exclude={"gate", "evaluate", "export"}),
        "data": {name: split.fingerprint for name, split in inputs.splits.items()},
        "teacher": inputs.teachers_digest,
        **inputs.loaded_as_in_digests,
    }
    if inputs.own is not None:
        depends["student"] = inputs.own.files.digest
    return run.once("plan", depends, PlanRecord, lambda folder: make_plan(recipe, inputs, folder))


def make_plan(recipe: Recipe, inputs: Inputs, folder: Path) -> PlanRecord:
    """The plan; writes nothing.

    Raises:
        ModelError: a student that cannot be built from this teacher, or a tokenizer that knows few words of the rows.
        RecipeError: the disk is too small for what will be written, or a tracker is not installed.
    """
    require_trackers(recipe.train.trackers)
    _require_trainable(recipe, inputs)
    shapes = shapes_of(recipe, inputs)
    teacher, student = shapes.teacher, shapes.student
    learnt, asked = planned(recipe, inputs)
    encoded = {name: inputs.encoded(recipe, split.rows) for name, split in learnt.splits.items()}
    unknown = unknown_shares(inputs, encoded)
    counts = {name: _counts(split, encoded[name]) for name, split in inputs.splits.items()}
    if recipe.rounds > 1:
        # From the second on, the teacher is a student: what the losses compare must be there too.
        build_loss(recipe, shapes_of(recipe, inputs, taught_by_student=True))
    signals = planned_signals(recipe, shapes, encoded["train"], _store_bytes(recipe, inputs, counts))
    # Each member of an ensemble stores its own distributions, and the lead alone its features.
    store_bytes = recipe.rounds * sum(
        signal.size_bytes * (max(1, len(inputs.members)) if signal.name == Signal.LOGITS else 1) for signal in signals
    )
    adapt_lora, lora = planned_lora(recipe, inputs)
    checkpoints = recipe.train.keep_checkpoints + 1 + recipe.rounds + len(recipe.train.snapshots)
    disk = store_bytes + _trained_bytes(checkpoints, student, lora, recipe.train)
    if recipe.adapt:
        disk += max(1, len(inputs.members)) * _trained_bytes(checkpoints, teacher, adapt_lora, recipe.adapt)
    free = shutil.disk_usage(_existing(folder)).free
    if disk > free:
        raise RecipeError(
            f"{folder}: the run writes up to {disk / 1e6:,.1f} MB and {free / 1e6:,.1f} MB are free. "
            "Free some, or give --out on another disk."
        )
    classes = class_counts(recipe, inputs)
    other = _other_tokens(recipe, inputs)
    return PlanRecord(
        labels=inputs.labels,
        splits=counts,
        teacher=teacher,
        student=student,
        weights={name: files.weights for name, files in inputs.teachers.items() if files.weights},
        steps=total_steps(recipe.train, _batched_rows(recipe, inputs, encoded["train"])),
        lora=lora,
        adapt_lora=adapt_lora,
        generations=recipe.rounds,
        adapt_steps=total_steps(recipe.adapt, _adapt_rows(recipe, inputs)) if recipe.adapt else 0,
        label_store_bytes=store_bytes,
        signals=signals,
        responses_to_write=sum(isinstance(row, GeneratedResponse) for row in learnt.splits["train"].rows),
        prompts_dropped=len(asked.dropped) if asked else 0,
        spelt_share=_spelt_share(inputs, encoded["validation"]),
        shared_tokens=_shared_tokens(inputs),
        other_tokens=other,
        student_source=recipe.student.model if isinstance(recipe.student, Pretrained) else None,
        disk_bytes=disk,
        disk_free_bytes=free,
        warnings=[
            *doubts_about_tokenizer(inputs, unknown),
            *doubts_about_answers(other),
            *doubts_about_own_tokenizer(recipe, inputs, encoded),
            *warnings(recipe, inputs, teacher, student, counts, classes, asked, encoded),
        ],
        classes=classes,
        date=recipe.task.date,
    )


def example_lines(recipe: Recipe, inputs: Inputs) -> Iterator[str]:
    """For language models: the first row of which something is learnt, every such token between the marks [[ and ]]."""
    if recipe.task.label_positions != "tokens":
        return
    rows = planned(recipe, inputs)[0].splits["train"].rows
    written = {row.id: row for row in rows if isinstance(row, GeneratedResponse)}
    first = rows[0].id
    if first not in written:
        # Of all rows, for the first ones can have nothing to learn, or no place for it.
        encoded = inputs.encoded(recipe, rows)
        assert isinstance(encoded, TokenRows)
        example = encoded.examples[0]
        first = example.id
    if first in written:
        yield f"\nThe first prompt, {first}; the teacher writes what is learnt after it:"
        yield inputs.tokenizer.decode(written[first].prompt.tolist(), clean_up_tokenization_spaces=False)
    else:
        yield f"\nThe first example, {first}; what is learnt stands between [[ and ]]:"
        pieces = marked_text(example, inputs.tokenizer)
        yield "".join(f"[[{text}]]" if learnt else text for text, learnt in pieces)


def total_steps(settings: OptimiserSettings, rows: int) -> int:
    """Optimiser steps of a training on so many rows of batches, at least one where there are epochs at all."""
    return 0 if settings.epochs == 0 else max(1, math.floor(settings.epochs * steps_per_epoch(settings, rows)))


def steps_per_epoch(settings: OptimiserSettings, rows: int) -> int:
    """Optimiser steps of one pass over so many rows of batches."""
    return math.ceil(rows / settings.batch_size)


def adapt_split(inputs: Inputs) -> Split:
    """The rows that the teacher is adapted on: its own, or the labelled ones of the student."""
    return inputs.splits.get("adapt", inputs.splits["train"])


def shapes_of(recipe: Recipe, inputs: Inputs, *, taught_by_student: bool = False) -> Shapes:
    """The sizes of student and teacher, where the teacher is not itself a student of this shape."""
    student = shape_of(recipe, inputs.student_config, inputs.labels)
    # A moving average has the student's own shape.
    alike = taught_by_student or not recipe.teacher.own_ids
    return Shapes(student, student if alike else shape_of(recipe, inputs.lead.config, inputs.labels))


def _counts(split: Split, encoded: Encoded) -> SplitCounts:
    counts = encoded.counts if isinstance(encoded, TokenRows) else None
    in_words = encoded if isinstance(encoded, EncodedWords) else None
    notes = split.notes or FileNotes(Path())
    return SplitCounts(
        words=sum(in_words.positions) if in_words else None,
        windows=len(in_words.windows) if in_words else None,
        read=split.read,
        rows=len(split.rows),
        labelled=split.labelled,
        pairs=sum(row.second_at is not None for row in split.rows) if isinstance(encoded, EncodedRows) else 0,
        truncated=encoded.truncated,
        blank_dropped=split.blank_dropped,
        duplicates_dropped=split.duplicates_dropped,
        near_copies_dropped=split.near_copies_dropped,
        other_label_dropped=split.other_label_dropped,
        fingerprint=split.fingerprint,
        unread=notes.unread,
        ignored=notes.ignored,
        skipped=notes.bad,
        skipped_first=notes.first_bad,
        source=notes.source,
        tokens=None
        if counts is None
        else TokensRecord(
            examples=counts.examples,
            tokens=counts.tokens,
            trained_tokens=counts.trained_tokens,
            responses_cut=counts.responses_cut,
            turns_dropped=counts.turns_dropped,
            examples_dropped=counts.examples_dropped,
            rows_only_shown=counts.rows_only_shown,
            rows_rewritten=counts.rows_rewritten,
        ),
    )


def _store_bytes(recipe: Recipe, inputs: Inputs, counts: Mapping[str, SplitCounts]) -> int:
    encoding = recipe.encoding
    if isinstance(encoding, Dense):
        answers = counts["train"].rows if counts["train"].words is None else counts["train"].words
        return answers * encoding.bytes_per_row(len(inputs.labels))
    config = inputs.lead.config.get_text_config()
    vocabulary = recipe.task.shared_tokens or config.vocab_size
    columns = encoding.columns(vocabulary, config.hidden_size, recipe.label.temperatures)
    positions = sum(split.trained_tokens for name in LABELLED if (split := counts[name].tokens))
    return positions * bytes_per_position(columns)


def _trained_bytes(checkpoints: int, shape: ShapeRecord, lora: LoraRecord | None, settings: OptimiserSettings) -> int:
    """What a training leaves on disk at most, with so many checkpoints and models."""
    states = settings.optimizer.states
    if lora is None:
        trained, held = shape.parameters, BYTES_PER_PARAMETER * shape.parameters
        # In 8 bits, those of embeddings are not.
        wide = shape.embedding_parameters if states == "8bit" else 0
    else:
        # The models whole, with the one that it begins with; of checkpoints what is trained.
        trained, held = lora.trained_parameters, BYTES_PER_PARAMETER * (lora.parameters + lora.trained_parameters)
        wide = 0
    moments = BYTES_OF_MOMENTS[states] * (trained - wide) + BYTES_OF_MOMENTS["float32"] * wide
    return checkpoints * (held + math.ceil(moments))


def _require_trainable(recipe: Recipe, inputs: Inputs) -> None:
    """Raises RecipeError: passes or an optimiser that the recipe asks for cannot be had of a model, or here."""
    asked: list[tuple[str, OptimiserSettings, PretrainedConfig]] = [("train", recipe.train, inputs.student_config)]
    if recipe.adapt:
        adapted = {id(files.config): files.config for files in (*inputs.members.values(), inputs.lead)}
        asked += [("adapt", recipe.adapt, config) for config in adapted.values()]
    for where, settings, config in asked:
        require_optimiser(settings, where)
        if settings.gradient_checkpointing or settings.attention != "auto":
            require_passes(skeleton_of(recipe, config, inputs.labels), settings, where)


def _adapt_rows(recipe: Recipe, inputs: Inputs) -> int:
    rows = labelled_rows(adapt_split(inputs).rows)
    return len(inputs.encoded(recipe, rows).lengths)


def _spelt_share(inputs: Inputs, validation: Encoded) -> float | None:
    """The share of a split's pieces that the student's vocabulary has not."""
    if inputs.vocabulary is None:
        return None
    counts = piece_counts(validation, inputs.tokenizer)
    return 1 - (counts[inputs.vocabulary.kept].sum() / counts.sum()).item()


def _shared_tokens(inputs: Inputs) -> SharedTokensRecord | None:
    if inputs.own is None or (shared := inputs.own.shared) is None:
        return None
    teacher, student = shared.rows
    return SharedTokensRecord(
        count=shared.count,
        teacher_rows=teacher,
        student_rows=student,
        adopted=list(shared.adopted),
        unknown=list(shared.unknown),
    )


def _batched_rows(recipe: Recipe, inputs: Inputs, encoded: Encoded) -> int:
    """The training rows as the student packs them; where the teacher writes them, as it reads the longest."""
    if inputs.own is None or inputs.own.vocabularies is None or recipe.generates_responses:
        return len(encoded.lengths)
    return len(inputs.of_student.encoded(recipe, inputs.splits["train"].rows).lengths)


def _other_tokens(recipe: Recipe, inputs: Inputs) -> OtherTokensRecord | None:
    if inputs.own is None or (vocabularies := inputs.own.vocabularies) is None:
        return None
    rows = aligned_rows(recipe, inputs, "validation")
    kinds = rows.counts(SAMPLED_EXAMPLES)
    known = kinds.sum() - kinds[UNKNOWN]
    single = vocabularies.tokens_in_group[vocabularies.group_of_student] == 1
    return OtherTokensRecord(
        teacher_tokens=sum(text is not None for text in vocabularies.teacher.texts),
        student_tokens=sum(text is not None for text in vocabularies.student.texts),
        alone=int((single & (vocabularies.first_of_student >= 0)).sum()),
        answered=float(known / max(1, kinds.sum())),
        plain=float(kinds[PLAIN] / max(1, known)),
    )


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())
