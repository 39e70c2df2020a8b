"""What a process that measures times: queries one by one and in batches, or each token after a prompt."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from potstill.measure.energy import EnergyMeter

Answer = Callable[[Sequence[Any]], None]
"""Answers a batch of queries."""
Answering = Callable[[int], Answer]
"""What answers batches of this size; of documents it is how many windows are read together."""
Write = Callable[[Sequence[int], int], Sequence[float]]
"""Writes so many tokens after a prompt, and gives the seconds of each; the first includes the reading."""

NO_METER = EnergyMeter(())


@dataclass(frozen=True)
class Series:
    """Queries that are timed in batches of each of these sizes, beside what is always timed."""

    queries: Sequence[Any]
    batch_sizes: tuple[int, ...]
    length: int | None = None
    """Tokens of each query; None where they are as long as the test rows."""


def timed(
    answer: Answer, rows: Sequence[Any], warmup: int, batch_size: int, meter: EnergyMeter = NO_METER
) -> dict[str, Any]:
    """How long each row alone takes, with its energy, then batches of them, after some to warm up."""
    batches = _whole_batches(rows, batch_size)
    for row in rows[:warmup]:
        answer([row])
    meter.begin()
    latencies = []
    for row in rows:
        latencies.append(1000 * _seconds(answer, [row]))
        meter.between()
    energy = _energy(meter, len(rows))
    answer(batches[0])
    seconds = [_seconds(answer, batch) for batch in batches]
    return {"latencies_ms": latencies, **energy, **_throughput(batches, seconds)}


def timed_series(answering: Answering, series: Iterable[Series], warmup: int) -> list[dict[str, Any]]:
    """How long each batch takes, of each size and length, after as many rows to warm up as fill whole batches."""
    found = []
    for each in series:
        for size in each.batch_sizes:
            answer, batches = answering(size), _whole_batches(each.queries, size)
            for batch in batches[: max(1, warmup // size)]:
                answer(batch)
            seconds = [_seconds(answer, batch) for batch in batches]
            found.append(
                {
                    "batch_size": size,
                    "length": each.length,
                    "latencies_ms": [1000 * taken for taken in seconds],
                    **_throughput(batches, seconds),
                }
            )
    return found


def timed_writing(
    write: Write, prompts: Sequence[Sequence[int]], warmup: int, new_tokens: int, meter: EnergyMeter = NO_METER
) -> dict[str, Any]:
    """How long each token after each prompt takes, with the energy of all after a prompt, after some to warm up."""
    for prompt in prompts[:warmup]:
        write(prompt, min(2, new_tokens))
    meter.begin()
    taken = []
    for prompt in prompts:
        taken.append(write(prompt, new_tokens))
        meter.between()
    energy = _energy(meter, len(prompts))
    return {
        **energy,
        "first_ms": [1000 * seconds[0] for seconds in taken],
        "latencies_ms": [1000 * each for seconds in taken for each in seconds[1:]],
        "throughput_per_s": sum(map(len, taken)) / sum(map(sum, taken)),
    }


def timed_writing_series(write: Write, series: Iterable[Series], warmup: int, new_tokens: int) -> list[dict[str, Any]]:
    """The same of prompts of each length, one at a time."""
    return [
        {"batch_size": 1, "length": each.length, **timed_writing(write, each.queries, warmup, new_tokens)}
        for each in series
    ]


def _energy(meter: EnergyMeter, queries: int) -> dict[str, float]:
    """That of a query, where it was counted."""
    joules = meter.ended()
    return {} if joules is None else {"joules_per_query": joules / queries}


def _whole_batches(rows: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """Of rows that are fewer than a batch, all of them."""
    return [rows[start : start + size] for start in range(0, len(rows) - size + 1, size)] or [rows]


def _seconds(answer: Answer, rows: Sequence[Any]) -> float:
    started = time.perf_counter()
    answer(rows)
    return time.perf_counter() - started


def _throughput(batches: Sequence[Sequence[Any]], seconds: Sequence[float]) -> dict[str, float]:
    return {"throughput_per_s": sum(map(len, batches)) / sum(seconds)}
