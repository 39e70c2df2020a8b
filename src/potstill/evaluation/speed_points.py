"""At which batch sizes and lengths speed is measured beside the test rows as they are, and with which queries."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from potstill.evaluation.case import Case
from potstill.evaluation.queries import whole_prompts
from potstill.measure.lengths import documents_of_length, pairs_of_length, prompts_of_length, texts_of_length
from potstill.measure.speed import PointSpeed
from potstill.measure.timed import Series
from potstill.records import SpeedPoint
from potstill.runtimes.predictor import Queries

_SAME = "They are counted in the tokens of the teacher, and are the same for all models."
_OWN_TOKENS = "They are of the same rows for all models, and models with other tokens are shown as many of their own."


def series_of(case: Case, queries: Queries, tokenizer: PreTrainedTokenizerBase) -> tuple[Series, ...]:
    """What models that read with this tokenizer are shown beside `queries`, at what the recipe names."""
    settings = case.recipe.evaluate
    sizes = settings.batch_sizes or (1,)
    if settings.lengths:
        return tuple(Series(_of_length(case, queries, tokenizer, each), sizes, each) for each in settings.lengths)
    return (Series(queries.items, sizes),) if settings.batch_sizes else ()


def _of_length(case: Case, queries: Queries, tokenizer: PreTrainedTokenizerBase, length: int) -> Sequence[Any]:
    if queries.form == "prompts":
        return prompts_of_length(whole_prompts(case, tokenizer), length)
    return queries_of_length(queries.form, queries.items, tokenizer, length)


def queries_of_length(
    form: str, items: Sequence[Any], tokenizer: PreTrainedTokenizerBase, length: int
) -> Sequence[Any]:
    """Texts, pairs of them, documents or the token ids of prompts, as queries of `length` tokens.

    Raises:
        DataError: they have no tokens.
    """
    if form == "prompts":
        return prompts_of_length(items, length)
    documents = form == "documents"

    def tokens(query: str | Sequence[str], most: int) -> int:
        columns = [query] if documents or isinstance(query, str) else list(query)
        encoded = tokenizer(
            *columns,
            is_split_into_words=documents,
            truncation=True,
            max_length=most + 1,
            # What stands in a text stays text.
            split_special_tokens=True,
        )
        return len(encoded["input_ids"])

    if documents:
        return documents_of_length(items, length, tokens)
    if isinstance(items[0], str):
        return texts_of_length(items, length, tokens)
    return pairs_of_length(items, length, tokens)


def made(case: Case, queries: Queries) -> str | None:
    """How queries of a length were made, where there are some."""
    if not case.recipe.evaluate.lengths:
        return None
    return f"{made_of(queries.form)} {_SAME if queries.of_student is None else _OWN_TOKENS}"


def made_of(form: str) -> str:
    """How queries of a length are made of rows."""
    what, tokens = "Rows", "tokens, with those that stand around a text"
    if form == "prompts":
        what, tokens = "Prompts of rows", "tokens"
    return (
        f"{what}, each cut to so many {tokens}, or joined end to end with those after it until it has as many, and cut."
    )


def points_of(speeds: Sequence[PointSpeed]) -> list[SpeedPoint]:
    """As a record has them."""
    return [
        SpeedPoint(
            batch_size=each.batch_size,
            length=each.length,
            latency_p50_ms=each.latency_p50_ms,
            latency_p95_ms=each.latency_p95_ms,
            latency_p50_range_ms=each.latency_p50_range_ms,
            throughput_per_s=each.throughput_per_s,
            time_to_first_token_ms=each.first_p50_ms,
        )
        for each in speeds
    ]
