"""Latency, throughput and memory of a saved model, measured in a process of its own.

Every model is measured by the same code in a fresh process with the same threads and rows, so that neither
what the caller loaded before nor its threads count. Rounds alternate between the models, and the fastest of each
counts: other work on the machine only ever adds time, and on a shared one more than models differ by.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from potstill.errors import ModelError

TIMEOUT_S = 1800


@dataclass(frozen=True)
class PointSpeed:
    """The speed in batches of one size, of queries of one length."""

    batch_size: int
    length: int | None
    """Tokens of each query; None where they are as long as the test rows."""
    latency_p50_ms: float
    """Of a batch; of a language model, as its other figures, of each token after the first."""
    latency_p95_ms: float | None
    latency_p50_range_ms: tuple[float, float]
    throughput_per_s: float
    first_p50_ms: float | None = None


@dataclass(frozen=True)
class Speed:
    latency_p50_ms: float
    latency_p95_ms: float | None
    latency_p99_ms: float | None
    """None where the round has too few queries for them."""
    throughput_per_s: float
    peak_memory_bytes: int
    memory_above_floor_bytes: int
    """The same without what the process held before it loaded the model: its interpreter and libraries."""
    load_ms: float
    """Until the first query can be asked, the libraries being imported."""
    latency_p50_range_ms: tuple[float, float]
    """The lowest and the highest median of a round: how far two measurements lie apart."""
    first_p50_ms: float | None = None
    """Of a language model: up to the first token, with the prompt read. Its latency is that of each further token."""
    in_own_type: "Speed | None" = None
    """The same in the type that the model is served in, where that is another."""
    points: tuple[PointSpeed, ...] = ()
    """At the batch sizes and lengths that were asked for beside."""
    joules_per_query: float | None = None
    """Of the whole processor while each was asked alone, in the round whose latencies these are; None where it does not
    count them."""


@runtime_checkable
class Request(Protocol):
    """What a fresh process measures; the module of its class is what runs there."""

    @property
    def model(self) -> str: ...

    @property
    def threads(self) -> int: ...

    def as_json(self) -> str: ...


R = TypeVar("R", bound=Request)


def measure_speed(
    requests: Mapping[str, R], *, rounds: int, advance: Callable[[int], None], own_types: Mapping[str, R] | None = None
) -> dict[str, Speed]:
    """The speed of each model over `rounds` alternated rounds, each in a fresh process.

    Latencies are those of the round with the lowest median, throughput and memory the highest of any round, and the
    time to load the shortest.
    `own_types` are requests for some of the models in the type that they are served in. Not every processor computes
    in every type: a model that cannot be measured in its own is without those figures.

    Raises:
        ModelError: a model that cannot be measured; carries the end of the process's output.
    """
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in requests}
    own = {name: list[dict[str, Any]]() for name in own_types or {}}
    for _ in range(rounds):
        for name, request in requests.items():
            found[name].append(_in_fresh_process(request))
            advance(1)
            if own_types and name in own:
                try:
                    own[name].append(_in_fresh_process(own_types[name]))
                except ModelError:
                    del own[name]
                advance(1)
    fastest = {name: _of_the_fastest(results) for name, results in found.items()}
    return {
        name: replace(speed, in_own_type=_of_the_fastest(own[name]) if name in own else None)
        for name, speed in fastest.items()
    }


def _in_fresh_process(request: Request) -> dict[str, Any]:
    threads = str(request.threads)
    environment = os.environ | {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        # Threads that spin while they wait slow each other on a busy machine.
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
    }
    try:
        done = _run(request, environment)
    except subprocess.TimeoutExpired:
        raise ModelError(
            f"{request.model}: its speed was not measured within {TIMEOUT_S // 60} minutes. Lower "
            "evaluate.latency_rows, or for a language model evaluate.prompts or evaluate.new_tokens, or name fewer "
            "evaluate.batch_sizes or evaluate.lengths."
        ) from None
    if done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-3:])
        raise ModelError(f"{request.model}: its speed could not be measured: {last}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _run(request: Request, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", type(request).__module__],
        input=request.as_json(),
        capture_output=True,
        text=True,
        env=environment,
        timeout=TIMEOUT_S,
        check=False,
    )


def _of_the_fastest(rounds: Sequence[dict[str, Any]]) -> Speed:
    points = zip(*(found.get("points", ()) for found in rounds), strict=True)
    return Speed(
        **_latencies(rounds, (95, 99)),
        peak_memory_bytes=max(found["peak_memory_bytes"] for found in rounds),
        memory_above_floor_bytes=max(found["peak_memory_bytes"] - found["floor_memory_bytes"] for found in rounds),
        load_ms=min(found["load_ms"] for found in rounds),
        points=tuple(_point(each) for each in points),
        joules_per_query=_fastest(rounds).get("joules_per_query"),
    )


def _point(rounds: Sequence[dict[str, Any]]) -> PointSpeed:
    """The fastest round at one point need not be that at another."""
    first = rounds[0]
    return PointSpeed(batch_size=first["batch_size"], length=first["length"], **_latencies(rounds, (95,)))


def _latencies(rounds: Sequence[dict[str, Any]], tails: Sequence[int]) -> dict[str, Any]:
    """Latencies of the round with the lowest median, and the highest throughput of any."""
    # Here, since a process that is measured imports this module and must not grow by what it does not use.
    from potstill.records import QUERIES_OF_A_PERCENTILE

    medians, fastest = _medians(rounds), _fastest(rounds)
    latencies, first = sorted(fastest["latencies_ms"]), sorted(fastest.get("first_ms", ()))
    # The tokens after a prompt are one query: what slows one of them slows the next.
    queries = len(first or latencies)

    def tail(percent: int) -> float | None:
        enough = queries >= QUERIES_OF_A_PERCENTILE[percent]
        return percentile(latencies, percent / 100) if enough else None

    return {
        "first_p50_ms": percentile(first, 0.50) if first else None,
        "latency_p50_ms": percentile(latencies, 0.50),
        **{f"latency_p{percent}_ms": tail(percent) for percent in tails},
        "latency_p50_range_ms": (min(medians), max(medians)),
        "throughput_per_s": max(found["throughput_per_s"] for found in rounds),
    }


def _medians(rounds: Sequence[dict[str, Any]]) -> list[float]:
    return [percentile(sorted(found["latencies_ms"]), 0.50) for found in rounds]


def _fastest(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    medians = _medians(rounds)
    return rounds[medians.index(min(medians))]


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the sorted values do not exceed (nearest rank)."""
    return ordered[max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1)]


@dataclass(frozen=True)
class Loading:
    """What a process holds, and when it is, before it loads a model."""

    floor_memory_bytes: int
    started: float

    @classmethod
    def begins(cls) -> "Loading":
        return cls(resident_memory_bytes(), time.perf_counter())

    def ended(self) -> dict[str, Any]:
        """What a process that measures prints of it."""
        return {
            "floor_memory_bytes": self.floor_memory_bytes,
            "load_ms": 1000 * (time.perf_counter() - self.started),
        }


def resident_memory_bytes() -> int:
    """Resident memory of this process now, in bytes; where the system does not tell, its peak so far."""
    return _of_status("VmRSS:") or peak_memory_bytes()


def peak_memory_bytes() -> int:
    """Peak resident memory of this process, in bytes."""
    # Not getrusage, which on Linux still counts what the parent held when it started this process.
    if (found := _of_status("VmHWM:")) is not None:
        return found
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _of_status(key: str) -> int | None:
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024
