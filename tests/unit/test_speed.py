"""What of several measured rounds counts."""

from dataclasses import replace
from typing import Any

import pytest

from potstill.errors import ModelError
from potstill.measure import speed
from potstill.runtimes.timing import Loads, SpeedRequest


def request(model: str) -> SpeedRequest:
    return SpeedRequest(
        Loads((model,)), "prompts", ((1,),), threads=1, warmup=0, batch_size=1, device="cpu", settings={"new_tokens": 2}
    )


def round_of(latencies: list[float], throughput: float, memory: int, first: list[float]) -> dict[str, Any]:
    return {
        "latencies_ms": [float(each) for each in latencies],
        "throughput_per_s": float(throughput),
        "peak_memory_bytes": memory,
        "floor_memory_bytes": memory // 2,
        "load_ms": 1000.0 - throughput,
        "first_ms": [float(each) for each in first],
    }


def test_rounds_alternate_and_the_fastest_of_each_model_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = {
        # The second round was disturbed, and has the lowest single value.
        "teacher": [round_of([9, 10, 11], 50, 7, [40, 41, 42]), round_of([1, 30, 31], 20, 9, [90, 91, 92])],
        "student": [round_of([4, 4, 90], 70, 3, [20, 21, 22]), round_of([3, 3, 5], 90, 2, [10, 11, 12])],
    }
    asked: list[str] = []

    def measured(wanted: SpeedRequest) -> dict[str, Any]:
        asked.append(wanted.model)
        return rounds[wanted.model][asked.count(wanted.model) - 1]

    monkeypatch.setattr(speed, "_in_fresh_process", measured)
    done: list[int] = []
    found = speed.measure_speed({name: request(name) for name in rounds}, rounds=2, advance=done.append)
    assert asked == ["teacher", "student"] * 2 and done == [1] * 4
    assert found["teacher"] == speed.Speed(10.0, None, None, 50.0, 9, 5, 950.0, (10.0, 30.0), 41.0)
    assert found["student"] == speed.Speed(3.0, None, None, 90.0, 3, 2, 910.0, (3.0, 4.0), 11.0)


@pytest.mark.parametrize(
    ("prompts", "rows", "p95", "p99"),
    [(0, 99, None, None), (0, 100, 95.0, None), (0, 661, 628.0, None), (0, 662, 629.0, 656.0), (99, 990, None, None)],
)
def test_a_percentile_needs_queries_behind_it(prompts: int, rows: int, p95: float | None, p99: float | None) -> None:
    """The rows of a round, or its prompts, however many tokens are written after each."""
    found = speed._of_the_fastest([round_of(list(range(1, rows + 1)), 1, 1, list(range(prompts)))])
    assert (found.latency_p95_ms, found.latency_p99_ms) == (p95, p99)


def test_a_model_that_its_own_type_cannot_be_computed_in_is_without_that_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(wanted: SpeedRequest) -> dict[str, Any]:
        if wanted.dtype == "float16":
            raise ModelError("no kernel")
        return round_of([5] if wanted.dtype == "bfloat16" else [9], 1, 1, [1])

    monkeypatch.setattr(speed, "_in_fresh_process", measured)
    requests = {name: request(name) for name in ("one", "other", "student")}
    own = {name: replace(requests[name], dtype=kind) for name, kind in (("one", "float16"), ("other", "bfloat16"))}
    found = speed.measure_speed(requests, rounds=2, advance=lambda _: None, own_types=own)
    assert {name: each.latency_p50_ms for name, each in found.items()} == dict.fromkeys(requests, 9.0)
    assert found["one"].in_own_type is None and found["student"].in_own_type is None
    assert found["other"].in_own_type is not None and found["other"].in_own_type.latency_p50_ms == 5.0


def test_the_fastest_round_is_the_one_whose_median_is_told() -> None:
    """By the mean of the middle two the second would be: 3 against 5.5."""
    found = speed._of_the_fastest([round_of([1, 2, 9, 9], 1, 1, []), round_of([1, 3, 3, 9], 1, 1, [])])
    assert found.latency_p50_ms == 2 and found.latency_p50_range_ms == (2, 3)
