"""The test rows by which speed is measured, and whether there are enough of them for what the gate asks."""

from typing import Any

from potstill.data.splits import stable_order
from potstill.errors import RecipeError
from potstill.families import most_tokens
from potstill.recipe import Recipe
from potstill.records import QUERIES_OF_A_PERCENTILE
from potstill.stages.common import Inputs
from potstill.tasks.generative import writing

PLAIN_PROMPT = 16
"""Tokens of a plain text, which has no prompt, that stand for one: speed does not depend on which they are."""

TokenIds = tuple[int, ...]


def timed_rows(recipe: Recipe, inputs: Inputs) -> list[Any]:
    """The test rows that are timed one by one, by stable hash."""
    rows = stable_order(inputs.splits["test"].rows, lambda row: row.id, salt="latency")
    return rows[: recipe.evaluate.latency_rows]


def prompted_rows(recipe: Recipe, inputs: Inputs, count: int, *, salt: str) -> list[tuple[Any, TokenIds]]:
    """Test rows that have a prompt, by stable hash, with its token ids."""
    prompts = writing(recipe.task).prompts(inputs.tokenizer)
    prompted = [row for row in inputs.splits["test"].rows if prompts.asks(row)]
    chosen: list[tuple[Any, TokenIds]] = []
    for row in stable_order(prompted, lambda row: row.id, salt=salt):
        if len(chosen) == count:
            break
        ids = prompts.last(row)
        if prompts.room(ids) > 0:
            chosen.append((row, tuple(ids.tolist())))
    return chosen


def timed_prompts(recipe: Recipe, inputs: Inputs) -> tuple[TokenIds, ...]:
    """What a language model is shown where its speed is measured, with room for what it then writes."""
    wanted = recipe.evaluate.prompts
    prompts = [ids for _, ids in prompted_rows(recipe, inputs, wanted, salt="latency")]
    if not prompts:
        examples = writing(recipe.task).encode(inputs.splits["test"].rows, inputs.tokenizer).examples
        prompts = [tuple(examples[number].ids[:PLAIN_PROMPT].tolist()) for number in range(min(wanted, len(examples)))]
    most = room_after((), inputs)
    apart = inputs.lead.config.is_encoder_decoder
    return tuple(ids if most is None or apart else ids[-(most - new_tokens(recipe)) :] for ids in prompts)


def new_tokens(recipe: Recipe) -> int:
    """What a language model writes after each prompt where its speed is measured: the first token, and one more."""
    return max(2, recipe.evaluate.new_tokens)


def room_after(prompt: TokenIds, inputs: Inputs) -> int | None:
    """How many tokens a model has positions for after a prompt; None where positions are computed."""
    config = inputs.lead.config
    most = most_tokens(config)
    return None if most is None else most - (0 if config.is_encoder_decoder else len(prompt))


def require_queries(recipe: Recipe, inputs: Inputs) -> None:
    """What evaluate would find out after training, and the rows already say.

    Raises:
        RecipeError: a percentile in the gate that too few queries would stand behind, or no positions left for what a
            language model is to write.
    """
    writes, settings = recipe.task.generative, recipe.evaluate
    most = room_after((), inputs)
    if writes and most is not None and new_tokens(recipe) >= most:
        raise RecipeError(
            f"evaluate.new_tokens: {new_tokens(recipe)} tokens are to be written after a prompt, and this "
            f"{inputs.lead.config.model_type} model has positions for {most}. Lower it."
        )
    if recipe.gate.max_latency_p95_ms is None:
        return
    needed, test = QUERIES_OF_A_PERCENTILE[95], len(inputs.splits["test"].rows)
    timed = len(timed_prompts(recipe, inputs)) if writes else min(settings.latency_rows, test)
    if timed < needed:
        key = "evaluate.prompts" if writes else "evaluate.latency_rows"
        asked = settings.prompts if writes else settings.latency_rows
        raise RecipeError(
            f"gate.max_latency_p95_ms: a 95th percentile needs {needed} queries, and {timed} would be timed ({key} is "
            f"{asked}, data.test has {test} rows). Raise {key}, add rows to data.test, or drop the threshold."
        )
