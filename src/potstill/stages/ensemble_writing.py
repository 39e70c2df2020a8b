"""What several teachers write as one: greedily, by the distribution that they have together at each token."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from potstill.measure.generation import greedy
from potstill.recipe import Recipe
from potstill.targets import LogitTargets, plain_log_sum_exp
from potstill.teachers import Routed, combined


def write_as_ensemble(
    recipe: Recipe,
    models: Mapping[str, PreTrainedModel],
    row: Any,
    prompt: Sequence[int],
    new_tokens: int,
    ends: Collection[int],
) -> list[int]:
    """The response of a recipe's several teachers to a row's prompt, with the token that ends it, where one does.

    `models` has each of them by name; `ends` are the tokens that end a response. Of teachers that are routed by
    domain, the row's own writes alone.

    Raises:
        DataError: a row of a domain that no teacher knows.
    """
    ensemble = recipe.ensemble
    assert ensemble is not None
    speaking = [models[name] for name in ensemble.of]
    if isinstance(ensemble, Routed) and ensemble.by == "domain":
        speaking = [speaking[ensemble.member_for(row.domain, row.id)]]
    ids, _ = greedy(speaking, prompt, new_tokens, stop=ends, together=partial(_next_of_all, recipe))
    return ids


def _next_of_all(recipe: Recipe, logits: Sequence[Tensor]) -> Tensor:
    """The logits of the next token that several teachers have together."""
    assert recipe.ensemble is not None
    target = combined(recipe.ensemble, [LogitTargets(each[None]) for each in logits])
    return target.logits_at(slice(None), 1.0, plain_log_sum_exp)[0]
