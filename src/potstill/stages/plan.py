"""plan: what will happen, with counts and sizes, before any work; refuses what cannot go well."""

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from potstill.data.chat_tokens import marked_text
from potstill.data.copies import EXAMPLES, Copy
from potstill.data.encoded import Encoded
from potstill.data.prepare import Split
from potstill.data.reading import FileNotes
from potstill.data.rows import labelled_rows
from potstill.data.token_rows import TokenRows
from potstill.data.words import EncodedWords
from potstill.data.written import Written
from potstill.errors import RecipeError
from potstill.labels import Dense, bytes_per_position
from potstill.losses import Shapes
from potstill.measure.entities import entities_of
from potstill.recipe import OptimiserSettings, Recipe
from potstill.records import PlanRecord, ShapeRecord, SplitCounts, TokensRecord
from potstill.run_dir import RunDir
from potstill.signals import Signal
from potstill.stages.class_counts import class_counts, doubts_about_classes
from potstill.stages.common import Inputs, piece_counts
from potstill.stages.heads import heads_told
from potstill.stages.queries import require_queries
from potstill.stages.rendering import LABELLED
from potstill.stages.respond import Requests, planned
from potstill.stages.shapes import shape_of
from potstill.stages.signals import build_loss, planned_signals
from potstill.students import Design, design_note, shape_notes
from potstill.tasks import CausalLM, TextClassification, TokenClassification
from potstill.teachers import MovingAverageTeacher

MANY_COPIES = 0.05
"""Of the rows of a split. Of C4, web text, 3 % are near-copies of others (Lee et al. 2021, arXiv:2107.06499)."""
BYTES_PER_TRAINED_PARAMETER = 12
"""On disk in a checkpoint: weight and both moments of AdamW in float32."""

MOST_SKIPPED = 0.05
"""The share of a file's rows over which skipping them is a warning: as many as a usual test may be wrong by chance."""


def plan(run: RunDir, recipe: Recipe, inputs: Inputs) -> PlanRecord:
    """Record the plan in the run directory.

    Raises:
        RecipeError: a teacher that lies in the run directory; and as `make_plan` and `require_queries`.
    """
    for files in (inputs.lead, *inputs.several.values()):
        where = Path(files.location)
        if where.exists() and where.resolve().is_relative_to(run.root.resolve()):
            raise RecipeError(
                f"teacher: {files.location} lies in the run directory {run.root}, where this run's student would take "
                "its place. Give --out another folder."
            )
    # What it looks at decides nothing of the plan, so one that is kept must not skip it.
    require_queries(recipe, inputs)
    depends = {
        "recipe": recipe.model_dump(mode="json", exclude={"gate", "evaluate", "export"}),
        "data": {name: split.fingerprint for name, split in inputs.splits.items()},
        "teacher": inputs.teachers_digest,
    }
    return run.once("plan", depends, PlanRecord, lambda folder: make_plan(recipe, inputs, folder))


def make_plan(recipe: Recipe, inputs: Inputs, folder: Path) -> PlanRecord:
    """The plan; writes nothing.

    Raises:
        ModelError: a student that cannot be built from this teacher.
        RecipeError: the disk is too small for what will be written.
    """
    shapes = shapes_of(recipe, inputs)
    teacher, student = shapes.teacher, shapes.student
    learnt, asked = planned(recipe, inputs)
    encoded = {name: inputs.encoded(recipe, split.rows) for name, split in learnt.splits.items()}
    counts = {name: _counts(split, encoded[name]) for name, split in inputs.splits.items()}
    if recipe.generations > 1:
        # From the second on, the teacher is a student: what the losses compare must be there too.
        build_loss(recipe, shapes_of(recipe, inputs, taught_by_student=True))
    signals = planned_signals(recipe, shapes, encoded["train"], _store_bytes(recipe, inputs, counts))
    # Each of several teachers stores its own distributions, and the lead alone its features.
    store_bytes = recipe.generations * sum(
        signal.size_bytes * (max(1, len(inputs.several)) if signal.name == Signal.LOGITS else 1) for signal in signals
    )
    checkpoints = recipe.train.keep_checkpoints + 1 + recipe.generations + len(recipe.train.snapshots)
    disk = store_bytes + BYTES_PER_TRAINED_PARAMETER * (
        checkpoints * student.parameters
        + (checkpoints * teacher.parameters * max(1, len(inputs.several)) if recipe.adapt else 0)
    )
    free = shutil.disk_usage(_existing(folder)).free
    if disk > free:
        raise RecipeError(
            f"{folder}: the run writes up to {disk / 1e6:,.1f} MB and {free / 1e6:,.1f} MB are free. "
            "Free some, or give --out on another disk."
        )
    classes = class_counts(recipe, inputs)
    return PlanRecord(
        labels=inputs.labels,
        splits=counts,
        teacher=teacher,
        student=student,
        steps=total_steps(recipe.train, len(encoded["train"].lengths)),
        generations=recipe.generations,
        adapt_steps=total_steps(recipe.adapt, _adapt_rows(recipe, inputs)) if recipe.adapt else 0,
        label_store_bytes=store_bytes,
        signals=signals,
        responses_to_write=sum(isinstance(row, Written) for row in learnt.splits["train"].rows),
        prompts_dropped=len(asked.dropped) if asked else 0,
        spelt_share=_spelt_share(inputs, encoded["validation"]),
        disk_bytes=disk,
        disk_free_bytes=free,
        warnings=[
            *heads_told(recipe, inputs),
            *_of_rows(recipe, counts),
            *doubts_about_classes(classes, {name: count.labelled for name, count in counts.items()}),
            *_warnings(recipe, inputs, teacher, student, counts),
            *_of_prompts(recipe, asked),
            *_of_chats(recipe, inputs, counts),
        ],
        classes=classes,
        date=recipe.task.date if isinstance(recipe.task, CausalLM) else None,
    )


def example_lines(recipe: Recipe, inputs: Inputs) -> Iterator[str]:
    """For language models: the first row as it is learnt, every token to be learnt between the marks [[ and ]]."""
    first = planned(recipe, inputs)[0].splits["train"].rows[0]
    if isinstance(first, Written):
        yield f"\nThe first prompt, {first.id}; the teacher writes what is learnt after it:"
        yield inputs.tokenizer.decode(first.prompt.tolist(), clean_up_tokenization_spaces=False)
        return
    encoded = recipe.task.encode([first], inputs.tokenizer, inputs.labels)
    if isinstance(encoded, TokenRows):
        example = encoded.examples[0]
        yield f"\nThe first example, {example.id}; what is learnt stands between [[ and ]]:"
        pieces = marked_text(example, inputs.tokenizer)
        yield "".join(f"[[{text}]]" if learnt else text for text, learnt in pieces)


def total_steps(settings: OptimiserSettings, rows: int) -> int:
    """Optimiser steps of a training on so many rows of batches, at least one."""
    return max(1, math.floor(settings.epochs * steps_per_epoch(settings, rows)))


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
    alike = taught_by_student or isinstance(recipe.teacher, MovingAverageTeacher)
    return Shapes(student, student if alike else shape_of(recipe, inputs.lead.config, inputs.labels))


def _warnings(
    recipe: Recipe, inputs: Inputs, teacher: ShapeRecord, student: ShapeRecord, counts: dict[str, SplitCounts]
) -> list[str]:
    found = []
    numbers = isinstance(recipe.task, TextClassification) and recipe.task.problem_type == "regression"
    classified = bool(inputs.labels) and not numbers
    taught = {label for row in inputs.splits["train"].rows if classified for label in row.classes}
    if classified and (unseen := sorted(set(inputs.labels) - taught)):
        found.append(
            f"{len(unseen)} of {len(inputs.labels)} classes have no labelled row in train, so the student "
            f"{'learns them from the teacher alone' if recipe.reads_distributions else 'cannot name them'}: "
            f"{', '.join(unseen[:5])}"
        )
    found.extend(_of_test(recipe, inputs, classified=classified))
    if recipe.label.max_kl is None and not isinstance(recipe.encoding, Dense):
        found.append("label.max_kl is null: the error of the stored labels is measured and not judged.")
    found.extend(_of_copies(inputs.splits))
    found.extend(_of_capacity(recipe, inputs, teacher, student))
    for name, count in counts.items():
        if count.words is not None and count.truncated:
            found.append(
                f"{name}: {count.truncated:,} documents have words that the tokenizer reads as nothing; they are taken "
                "for tagged O."
            )
        elif count.truncated > 0.25 * count.rows:
            share = count.truncated / count.rows
            found.append(f"{name}: {share:.0%} of the rows are cut at {recipe.task.max_length} tokens.")
    if recipe.adapt and "adapt" not in inputs.splits:
        found.append(
            "the teacher is adapted on the student's own labelled rows: its soft labels there are "
            "over-confident. Give data.adapt other rows."
        )
    return found


def _of_copies(splits: Mapping[str, Split]) -> Iterator[str]:
    """Where many rows are left out as copies, or some under another label, with examples."""
    for name, split in splits.items():
        dropped = split.duplicates_dropped + split.near_copies_dropped
        if dropped > MANY_COPIES * split.read:
            yield (
                f"{name}: {dropped:,} of {split.read:,} rows ({dropped / split.read:.0%}) are left out as copies of "
                f"other rows, such as {_shown(split.copies[-EXAMPLES:])}. If they are none, set data.near_copies or "
                "data.deduplicate."
            )
        if split.other_label_dropped:
            yield (
                f"{name}: {split.other_label_dropped:,} of the copies that are left out are labelled otherwise than "
                f"the rows that they copy, such as {_shown([each for each in split.copies if each.other_label])}. "
                "Where two texts mean the same, one of the labels is wrong: mend it."
            )


def _shown(copies: Sequence[Copy]) -> str:
    return "; ".join(f'{each.id} of {each.of} ("{each.text}")' for each in copies)


def _of_test(recipe: Recipe, inputs: Inputs, *, classified: bool) -> list[str]:
    """Where one answer is right at every test row, so that no teacher can be better than always giving it."""
    test = inputs.splits["test"].rows
    if isinstance(recipe.task, TokenClassification):
        alike = None if any(entities_of(row.tags) for row in test) else "no document has an entity"
    elif classified and len({row.classes for row in test}) == 1:
        alike = f"all rows have the same label ({', '.join(test[0].classes) or 'none'})"
    else:
        alike = None
    if alike is None:
        return []
    return [
        f"test: {alike}, so no teacher can be better than one that always says so, and the gate will fail. Add others "
        "to data.test."
    ]


def _of_capacity(recipe: Recipe, inputs: Inputs, teacher: ShapeRecord, student: ShapeRecord) -> list[str]:
    """Where the student differs from what was asked for, and where it may be too small for its teacher."""
    made = inputs.student_config
    found = shape_notes(inputs.lead.config, inputs.student, made)
    if isinstance(recipe.student, Design) and (note := design_note(inputs.lead.config, recipe.student)):
        found.append(note)
    if student.family != teacher.family:
        found.append(
            f"the student is another kind of network ({student.family}) than its teacher ({teacher.family}); what it "
            "is given to start from may fit it less."
        )
    doubts = []
    if student.layers * 4 < teacher.layers:
        doubts.append("under a quarter of its depth")
    if (student.decoder_layers or 0) * 4 < (teacher.decoder_layers or 0):
        doubts.append("under a quarter of its decoder's depth")
    if student.width * 3 < teacher.width:
        doubts.append("under a third of its width")
    bodies = [shape.parameters - shape.embedding_parameters for shape in (student, teacher)]
    if bodies[0] < 0.05 * bodies[1]:
        doubts.append(f"{bodies[0] / bodies[1]:.1%} of its parameters without embeddings")
    if doubts:
        found.append(
            f"the student ({student.layers} x {student.width}) has {' and '.join(doubts)} of the teacher "
            f"({teacher.layers} x {teacher.width}); expect it to lose more. More steps (train.epochs) may help, or a "
            "teacher assistant between the two: a run whose student is the teacher of the next (teacher.kind: "
            "checkpoint)."
        )
    return found


def _of_prompts(recipe: Recipe, asked: Requests | None) -> Iterator[str]:
    if asked and asked.dropped:
        yield (
            f"train: {len(asked.dropped):,} prompts are left out, since they leave no room for a response within "
            f"{recipe.task.max_length} tokens."
        )
    if asked and asked.only_shown:
        yield _left_out("train", asked.only_shown)


def _left_out(split: str, rows: int) -> str:
    return f"{split}: {rows:,} rows are left out, since none of their turns is to be learnt."


def _of_chats(recipe: Recipe, inputs: Inputs, counts: Mapping[str, SplitCounts]) -> Iterator[str]:
    """What a chat template makes of the rows that nobody may expect."""
    task = recipe.task
    if isinstance(task, CausalLM) and task.date is not None:
        yield (
            f"the chat template writes the date, and in all prompts of this run it is {task.date:%Y-%m-%d %H:%M:%S}, "
            "on whatever day they are made (task.date). Ask the student with it, too, or it reads prompts of a kind "
            "that it never saw."
        )
    for name, count in counts.items():
        if count.tokens is None:
            continue
        if count.tokens.rows_only_shown:
            yield _left_out(name, count.tokens.rows_only_shown)
        if count.tokens.rows_rewritten:
            yield (
                f"{name}: {count.tokens.rows_rewritten:,} rows are learnt without some of the white space around their "
                "responses, or with their reasoning in another form, since that is how the chat template writes them."
            )


def _of_rows(recipe: Recipe, counts: Mapping[str, SplitCounts]) -> list[str]:
    """Where many rows of a file are skipped, and what the recipe leaves out that is not there."""
    found = []
    for name, count in counts.items():
        if count.skipped > MOST_SKIPPED * count.read:
            found.append(
                f"{name}: {count.skipped:,} of {count.read:,} rows ({count.skipped / count.read:.0%}) cannot be read "
                "and are skipped; the others may not stand for them."
            )
    if missing := set(recipe.data.ignore).difference(*(count.ignored for count in counts.values())):
        found.append(f"data.ignore: no row has {', '.join(sorted(missing))}.")
    return found


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
    config = inputs.lead.config
    columns = encoding.columns(config.vocab_size, config.hidden_size, recipe.label.temperatures)
    positions = sum(split.trained_tokens for name in LABELLED if (split := counts[name].tokens))
    return positions * bytes_per_position(columns)


def _adapt_rows(recipe: Recipe, inputs: Inputs) -> int:
    rows = labelled_rows(adapt_split(inputs).rows)
    return len(inputs.encoded(recipe, rows).lengths)


def _spelt_share(inputs: Inputs, validation: Encoded) -> float | None:
    """The share of a split's pieces that the student's vocabulary has not."""
    if inputs.vocabulary is None:
        return None
    counts = piece_counts(validation, inputs.tokenizer)
    return 1 - (counts[inputs.vocabulary.kept].sum() / counts.sum()).item()


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())
