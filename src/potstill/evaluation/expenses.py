"""What a thousand requests cost, in money and in energy: an estimate from measured time and what the recipe states, or
energy that the processor counted."""

from collections.abc import Mapping
from typing import Any

from potstill.measure import energy
from potstill.measure.energy import packages_in
from potstill.recipe.expense_settings import ExpenseSettings

PER = 1000
MS_PER_HOUR = 3_600_000
J_PER_WH = 3600


def expenses_of(settings: ExpenseSettings | None, request_ms: float, joules: float | None = None) -> Mapping[str, Any]:
    """The fields of a `ModelEvaluation` that are about it. `request_ms` is the time of one request, alone on its
    process, and `joules` what the whole processor drew for it, where it was counted: all that it costs to have the
    process wait for others comes on top."""
    found: dict[str, Any] = {}
    if settings is not None:
        hours = PER * request_ms / MS_PER_HOUR
        found["cost_per_1000"] = None if settings.price_per_hour is None else hours * settings.price_per_hour
        found["energy_wh_per_1000"] = None if settings.watts is None else hours * settings.watts
    if joules is not None:
        found |= {"energy_wh_per_1000": PER * joules / J_PER_WH, "joules_per_query": joules}
    return found


def energy_method(settings: ExpenseSettings | None, device: str, *, counted: bool) -> str | None:
    """How energy was measured; where it is estimated, why it was not."""
    if counted:
        return counted_by()
    if settings is None or settings.watts is None:
        return None
    why = "that of an accelerator is not read" if device != "cpu" else packages_in(energy.POWERCAP).missing
    return f"Energy is estimated from evaluate.expenses.watts: {why or 'a counter stood still or could not be read'}."


def counted_by() -> str:
    """How energy is measured where it is."""
    return (
        f"Energy is what the whole processor drew by its own counters (RAPL, {len(packages_in(energy.POWERCAP).found)} "
        "package(s)) while queries were asked one by one, whatever else ran on it, without memory and other devices."
    )
