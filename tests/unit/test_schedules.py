"""Values that change over training."""

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from potstill.schedules import Constant, Cosine, Linear, Schedule, learning_rate_factor

SCHEDULE: TypeAdapter[Any] = TypeAdapter(Schedule)
FAST = settings(max_examples=25, deadline=None, derandomize=True)
VALUES = st.floats(-100, 100)


@pytest.mark.parametrize("number", [3, 0.25, 0, -1.5])
def test_a_bare_number_is_a_constant_schedule(number: float) -> None:
    schedule = SCHEDULE.validate_python(number)
    assert schedule == Constant(value=number)
    assert schedule.at(0.0) == schedule.at(0.3) == schedule.at(1.0) == number


@pytest.mark.parametrize(
    "wrong",
    [
        True,
        "fast",
        None,
        math.nan,
        math.inf,
        {"kind": "linear", "start": 1},
        {"kind": "step", "start": 1, "end": 2},
        {"kind": "linear", "start": 1, "end": 2, "middle": 3},
    ],
)
def test_what_is_no_schedule_is_refused(wrong: Any) -> None:
    with pytest.raises(ValidationError):
        SCHEDULE.validate_python(wrong)


@FAST
@given(start=VALUES, end=VALUES)
@pytest.mark.parametrize("kind", [Linear, Cosine])
def test_schedules_go_monotonously_from_start_to_end(
    kind: type[Linear] | type[Cosine], start: float, end: float
) -> None:
    schedule = kind(start=start, end=end)
    values = [schedule.at(step / 20) for step in range(21)]
    assert values[0] == pytest.approx(start, abs=1e-9)
    assert values[-1] == pytest.approx(end, abs=1e-9)
    assert values[10] == pytest.approx((start + end) / 2, abs=1e-9)
    rising = 1 if end >= start else -1
    assert all(rising * (after - before) >= -1e-9 for before, after in pairwise(values))
    assert set(schedule.values()) == {start, end}


@pytest.mark.parametrize("kind", [Linear, Cosine])
def test_progress_outside_of_0_to_1_is_clipped(kind: type[Linear] | type[Cosine]) -> None:
    schedule = kind(start=4.0, end=1.0)
    assert schedule.at(-0.5) == pytest.approx(4.0)
    assert schedule.at(1.5) == pytest.approx(1.0)


def test_a_cosine_is_slower_than_a_line_at_both_ends() -> None:
    line, cosine = Linear(start=0.0, end=1.0), Cosine(start=0.0, end=1.0)
    assert cosine.at(0.1) < line.at(0.1)
    assert cosine.at(0.9) > line.at(0.9)


def test_a_schedule_survives_its_json() -> None:
    for schedule in (Constant(value=2.0), Linear(start=1.0, end=2.0), Cosine(start=1.0, end=2.0)):
        assert SCHEDULE.validate_json(schedule.model_dump_json()) == schedule


@FAST
@given(total=st.integers(2, 300), warmup=st.sampled_from([0.0, 0.1, 0.5]))
@pytest.mark.parametrize("decay", ["linear", "cosine", "constant"])
def test_the_learning_rate_rises_to_its_peak_then_only_falls(decay: Any, total: int, warmup: float) -> None:
    factors = [learning_rate_factor(step, total, warmup=warmup, decay=decay) for step in range(total)]
    peak = round(warmup * total)
    assert factors[peak] == 1.0
    assert all(0 < factor <= 1 for factor in factors)
    assert all(a < b for a, b in pairwise(factors[: peak + 1]))
    falling = pairwise(factors[peak:])
    assert all(a == b if decay == "constant" else a > b for a, b in falling)


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_the_learning_rate_ends_near_zero(decay: Any) -> None:
    assert learning_rate_factor(999, 1000, warmup=0.1, decay=decay) < 0.01
    middle = learning_rate_factor(550, 1000, warmup=0.1, decay=decay)
    assert middle == pytest.approx(0.5)
