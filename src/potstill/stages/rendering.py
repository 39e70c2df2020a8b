"""What rows are as token ids: those of one moment, and known by their digest."""

from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from itertools import chain

from potstill.data.token_rows import TokenRows
from potstill.errors import RecipeError
from potstill.recipe import Recipe
from potstill.run_dir import RunDir, fingerprint
from potstill.stages.inputs import Inputs
from potstill.tasks import AnyTask

LABELLED = ("train", "validation")
"""The splits that a language model's teacher labels: checkpoints are compared by the KL to it."""
DATE = "date.txt"
"""In a run directory: the date of its prompts."""


def at_one_date(recipe: Recipe, inputs: Inputs, settled: Callable[[str], str]) -> Recipe:
    """The recipe with the date that the chat template writes, where it writes one and the recipe does not set it.

    `settled` is given the present and returns what is to count, for it must be the same in every stage of a run, on
    whatever day and in whatever zone it goes on.

    Raises:
        DataError, ModelError: rows that the template refuses.
        RecipeError: what is settled is no date.
    """
    task = recipe.task
    if task.date is not None or not any(date_is_written(task, each) for each in (inputs, inputs.of_student)):
        return recipe
    found = settled(datetime.now().replace(microsecond=0).isoformat())
    try:
        date = datetime.fromisoformat(found)
    except ValueError:
        raise RecipeError(f"{DATE}: {found[:40]!r} is no date. Set task.date to the one of this run.") from None
    return recipe.model_copy(update={"task": task.model_copy(update={"date": date})})


def date_is_written(task: AnyTask, inputs: Inputs) -> bool:
    """Whether the chat template writes the date into the prompt of a row.

    Raises:
        DataError, ModelError: rows that the template refuses.
    """
    return task.writes_date(chain.from_iterable(split.rows for split in inputs.splits.values()), inputs.tokenizer)


def tokens_of(recipe: Recipe, inputs: Inputs) -> str | None:
    """Digest of the token ids of all rows that a teacher labels, and of which of them are learnt; None where models
    do not write."""
    if recipe.task.label_positions != "tokens":
        return None
    rows = {name: _encoded(recipe, inputs, name).examples.digest for name in LABELLED}
    return fingerprint(rows)


def with_tokens(
    depends: dict[str, object],
    tokens: str | None,
    run: RunDir,
    stage: str,
    recipe: Recipe,
    inputs: Inputs,
    *,
    last_bits: Collection[str] = (),
    auto: Mapping[str, str] | None = None,
) -> dict[str, object]:
    """What a stage depends on, with the digest of its token ids; `last_bits` and `auto` as `RunDir.once` takes them.

    A stage that an earlier version began on all the rest goes on without it, unless that version read the rows as other
    ids. One that works anew, for something else has changed, has the digest.
    """
    if tokens is None:
        return depends
    old = run.has_begun(stage, depends, last_bits=last_bits, auto=auto)
    if old and not any(
        (counts := _encoded(recipe, inputs, name).counts) and counts.rows_rewritten for name in LABELLED
    ):
        return depends
    return {**depends, "tokens": tokens}


def _encoded(recipe: Recipe, inputs: Inputs, split: str) -> TokenRows:
    rows = inputs.encoded(recipe, inputs.splits[split].rows)
    assert isinstance(rows, TokenRows)
    return rows
