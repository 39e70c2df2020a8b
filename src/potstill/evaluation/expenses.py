"""What a thousand requests cost, in money and in energy: an estimate from measured time and what the recipe states."""

from collections.abc import Mapping
from typing import Any

from potstill.recipe.expense_settings import ExpenseSettings

PER = 1000
MS_PER_HOUR = 3_600_000


def expenses_of(settings: ExpenseSettings | None, request_ms: float) -> Mapping[str, Any]:
    """The fields of a `ModelEvaluation` that are about it. `request_ms` is the time of one request, alone on its
    process: all that it costs to have the process wait for others comes on top."""
    if settings is None:
        return {}
    hours = PER * request_ms / MS_PER_HOUR
    return {
        "cost_per_1000": None if settings.price_per_hour is None else hours * settings.price_per_hour,
        "energy_wh_per_1000": None if settings.watts is None else hours * settings.watts,
    }
