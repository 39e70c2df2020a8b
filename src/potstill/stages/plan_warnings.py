"""What a plan warns of: rows that are left out, a student that may be too small, choices that can cost quality."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from potstill.data.copies import EXAMPLES, Copy
from potstill.data.encoded import Encoded
from potstill.data.fields import in_yaml, shown
from potstill.data.prepare import Split
from potstill.data.token_rows import TokenRows
from potstill.labels import Dense
from potstill.models import most_tokens
from potstill.recipe import Recipe
from potstill.records import ClassCount, ShapeRecord, SplitCounts
from potstill.stages.class_counts import doubts_about_classes
from potstill.stages.generate import Requests
from potstill.stages.heads import heads_told, student_head_told
from potstill.stages.inputs import Inputs
from potstill.stages.lora import doubts_about_rates
from potstill.stages.rendering import date_is_written
from potstill.stages.teacher_files import Files, named_in
from potstill.students import Design, Shrunk, design_note, shape_notes
from potstill.tasks import AnyTask

MANY_COPIES = 0.05
"""Of the rows of a split. Of C4, web text, 3 % are near-copies of others (Lee et al. 2021, arXiv:2107.06499)."""
MOST_SKIPPED = 0.05
"""The share of a file's rows over which skipping them is a warning: as many as a usual test may be wrong by chance."""


def warnings(
    recipe: Recipe,
    inputs: Inputs,
    teacher: ShapeRecord,
    student: ShapeRecord,
    counts: Mapping[str, SplitCounts],
    classes: Sequence[ClassCount],
    asked: Requests | None,
    encoded: Mapping[str, Encoded],
) -> list[str]:
    """Sentences for a person to read before the run.

    `asked` are the responses that the teacher is to write, `encoded` the rows that are learnt and measured on.
    """
    return [
        *heads_told(recipe, inputs),
        *student_head_told(recipe, inputs),
        *_of_rows(recipe, counts),
        *_of_fields(inputs.splits),
        *doubts_about_classes(classes, {name: count.labelled for name, count in counts.items()}),
        *_of_recipe(recipe, inputs, teacher, student, counts),
        *doubts_about_rates(recipe, teacher, student),
        *_of_prompts(recipe, asked),
        *_of_chats(recipe, inputs, counts),
        *_of_lengths(recipe, inputs, encoded),
    ]


def _of_recipe(
    recipe: Recipe, inputs: Inputs, teacher: ShapeRecord, student: ShapeRecord, counts: Mapping[str, SplitCounts]
) -> list[str]:
    found = []
    classified = recipe.task.named_outputs
    taught = {label for row in inputs.splits["train"].rows if classified for label in row.classes}
    if classified and (unseen := sorted(set(inputs.labels) - taught)):
        found.append(
            f"{len(unseen)} of {len(inputs.labels)} classes have no labelled row in train, so the student "
            f"{'learns them from the teacher alone' if recipe.reads_distributions else 'cannot name them'}: "
            f"{', '.join(unseen[:5])}"
        )
    found.extend(_of_test(recipe.task, inputs))
    found.extend(_of_validation(recipe.task, inputs))
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


def _of_fields(splits: Mapping[str, Split]) -> Iterator[str]:
    """Where a title or the like is not read, which may be mere metadata."""
    found: dict[str, list[str]] = {}
    for name, split in splits.items():
        for column in split.notes.doubtful if split.notes else ():
            found.setdefault(column, []).append(name)
    for column, names in sorted(found.items()):
        yield (
            f"{', '.join(names)}: {shown(column)} is not read, and may belong to the text. If the teacher is to see "
            f"it, write it into the text; data.ignore: [{in_yaml(column)}] says that it may go."
        )


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


def _of_test(task: AnyTask, inputs: Inputs) -> list[str]:
    """Where one answer is right at every test row, so that no teacher can be better than always giving it."""
    alike = task.alike(inputs.splits["test"].rows, inputs.labels)
    if alike is None:
        return []
    return [
        f"test: {alike}, so no teacher can be better than one that always says so, and the gate will fail. Add others "
        "to data.test."
    ]


def _of_validation(task: AnyTask, inputs: Inputs) -> list[str]:
    """Where the validation rows cannot tell a better checkpoint from one that gives the same answer to all."""
    rows = inputs.splits["validation"].rows
    alike = "there is but one row" if len(rows) == 1 else task.alike(rows, inputs.labels)
    if alike is None:
        return []
    return [
        f"validation: {alike}, so the checkpoint that is chosen by it may be a bad one. Add others to data.validation."
    ]


def _of_capacity(recipe: Recipe, inputs: Inputs, teacher: ShapeRecord, student: ShapeRecord) -> list[str]:
    """Where the student differs from what was asked for, and where it may be too small for its teacher."""
    made = inputs.student_config
    found = []
    if isinstance(inputs.student, Shrunk):
        found = shape_notes(inputs.lead.config, inputs.student, made)
    if isinstance(recipe.student, Design) and (note := design_note(inputs.lead.config, recipe.student)):
        found.append(note)
    if isinstance(inputs.student, Shrunk) and student.family != teacher.family:
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
    if task.date is not None and not date_is_written(task, inputs):
        yield "task.date has no effect: the chat template writes no date into the prompt of any row."
    elif task.date is not None:
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


def _of_lengths(recipe: Recipe, inputs: Inputs, encoded: Mapping[str, Encoded]) -> Iterator[str]:
    """Examples with positions that a teacher can compute, and has hardly seen in its training."""
    teachers: list[tuple[str | None, Files]] = [*inputs.members.items()] or [(None, inputs.lead)]
    for member, files in teachers:
        most = getattr(files.config, "max_position_embeddings", None)
        if most is None or most_tokens(files.config) is not None:
            continue
        for split, rows in encoded.items():
            # Packed rows count from 0 again at each example.
            lengths = rows.examples.lengths if isinstance(rows, TokenRows) else np.array(rows.lengths)
            if longer := int((lengths > most).sum()):
                yield (
                    f"{split}: {longer:,} examples are longer (up to {lengths.max():,} tokens) than the {most:,} "
                    f"positions for which {named_in(recipe, member)} was made (max_position_embeddings), and what it "
                    f"predicts there may be bad. Set task.max_length to {most}."
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
