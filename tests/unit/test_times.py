"""Where the time of a run went, as the report shows it."""

import pytest

from potstill.presentation.times import duration, stage_times, throughput


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.0, "0.0 s"), (59.94, "59.9 s"), (60.2, "1 min 00 s"), (3599.6, "1 h 00 min"), (7384.0, "2 h 03 min")],
)
def test_a_duration_is_in_the_units_in_which_people_wait(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_shares_are_of_the_run_and_bars_of_the_longest_stage() -> None:
    lines = stage_times([("plan", 2.0), ("train/student", 60.0), ("evaluate", 18.0)], {})
    assert [(line.stage, line.share, line.width) for line in lines] == [
        ("plan", "2.5 %", "3.3"),
        ("train/student", "75.0 %", "100.0"),
        ("evaluate", "22.5 %", "30.0"),
    ]


def test_a_run_of_no_time_has_no_shares() -> None:
    (line,) = stage_times([("plan", 0.0)], {})
    assert (line.share, line.width) == ("–", "0.0")
    assert stage_times([], {}) == []


def test_throughput_is_that_of_the_middle_step() -> None:
    steps = [{"kind": "step", "rows_per_s": rate} for rate in (10.0, 90.0, 100.0, 110.0, 4000.0)]
    lines = [*steps, {"kind": "validation", "validation_loss": 0.5}]
    assert throughput(lines) == "100 rows a second"
    assert throughput([{"kind": "step", "tokens_per_s": 12345.6}]) == "12,346 tokens a second"
    by_stage = stage_times([("train/student", 1.0), ("train/baseline", 1.0)], {"student": lines})
    assert [line.throughput for line in by_stage] == ["100 rows a second", "–"]


def test_steps_that_do_not_say_what_they_cost_are_no_error() -> None:
    """As earlier versions wrote them, or a training that went on from one of these."""
    assert throughput([{"kind": "step", "loss": 0.5}]) == "–"
    assert throughput([{"kind": "step", "loss": 0.5}, {"kind": "step", "rows_per_s": 7.0}]) == "7 rows a second"
