"""What a thousand requests cost, against the same by hand."""

import pytest
from pydantic import ValidationError

from potstill.evaluation.costs import request_ms
from potstill.evaluation.expenses import expenses_of
from potstill.evaluation.tables import quantities
from potstill.measure.speed import Speed
from potstill.recipe.expense_settings import ExpenseSettings
from potstill.runtimes.predictor import Queries
from tests.unit.finished_run import evaluation


def speed(p50: float, first: float | None = None) -> Speed:
    return Speed(p50, None, None, 1.0, 1, 1, 1.0, (p50, p50), first_p50_ms=first)


def test_a_thousand_requests_cost_what_their_hours_do() -> None:
    # 1,000 times 36 ms are 36 s, a hundredth of an hour.
    found = expenses_of(ExpenseSettings(price_per_hour=5.0, watts=20.0), 36.0)
    assert found == {"cost_per_1000": pytest.approx(0.05), "energy_wh_per_1000": pytest.approx(0.2)}
    assert expenses_of(ExpenseSettings(watts=20.0), 36.0)["cost_per_1000"] is None
    assert expenses_of(None, 36.0) == {}


def test_a_request_is_a_text_or_all_that_is_written_after_a_prompt() -> None:
    texts = Queries("texts", ["a"], {"max_length": 8})
    prompts = Queries("prompts", [(1,)], {"new_tokens": 5}, one_by_one=True)
    assert request_ms(speed(7.0), texts) == 7.0
    # The first token, and four more.
    assert request_ms(speed(7.0, first=30.0), prompts) == 30.0 + 4 * 7.0


def test_nothing_to_estimate_from_and_less_than_nothing_are_refused() -> None:
    with pytest.raises(ValidationError, match="give price_per_hour, watts, or both"):
        ExpenseSettings()
    with pytest.raises(ValidationError, match="watts is -1; expected 0 or more"):
        ExpenseSettings(price_per_hour=1.0, watts=-1.0)


def test_they_are_shown_as_estimates_where_they_are_known() -> None:
    found = evaluation(with_baseline=True)
    assert not any("estimate" in each.name for each in quantities(found))
    models = {name: each.model_copy(update={"cost_per_1000": 0.5}) for name, each in found.models.items()}
    shown = {each.name: each.values for each in quantities(found.model_copy(update={"models": models}))}
    assert shown["Cost of a thousand requests (estimate)"] == ["0.5"] * 3
    assert "Energy of a thousand requests, Wh (estimate)" not in shown
