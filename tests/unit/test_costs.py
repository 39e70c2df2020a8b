"""What a step says that it cost: counted rows and tokens, a rate of them, time and memory."""

import json
import time
from pathlib import Path

import pytest
import torch

from potstill.measure.speed import peak_memory_bytes
from potstill.progress import Progress
from potstill.signals import Batch
from potstill.training import costs
from potstill.training.costs import COSTS, StepClock, counted, counts_rows, memory_bytes
from potstill.training.loop import fit
from potstill.training.metrics import read_metrics
from potstill.training.one_process import OneProcess
from tests.invariants import test_language_models
from tests.invariants.test_training import CPU, StopsAt, job


def batch(mask: object, *, whole_rows: bool = False) -> Batch:
    found = torch.tensor(mask)
    return Batch(tuple(map(str, range(len(found)))), {}, torch.zeros(found.shape, dtype=torch.int64), found, whole_rows)


@pytest.mark.parametrize(
    ("batches", "positions", "rows", "by_rows"),
    [
        ([batch([True, False, True]), batch([True])], 3, 3, True),
        ([batch([[True, True], [False, True], [False, False]], whole_rows=True)], 3, 2, True),
        ([batch([[True, True], [False, False]]), batch([[False, True]])], 3, 2, False),
    ],
    ids=["classes", "several labels", "tokens"],
)
def test_positions_and_rows_that_count_are_counted(
    batches: list[Batch], positions: int, rows: int, by_rows: bool
) -> None:
    assert counted(batches).tolist() == [positions, rows]
    assert counts_rows(batches) is by_rows


def test_a_rate_is_what_was_counted_over_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = StepClock(CPU, started=10.0)
    monkeypatch.setattr(costs.time, "perf_counter", lambda: 12.5)
    found = clock.costs(400.0, 10.0, by_rows=True)
    assert (found["seconds"], found["rows_per_s"]) == (2.5, 4.0) and "tokens_per_s" not in found
    found = clock.costs(400.0, 10.0, by_rows=False)
    assert (found["seconds"], found["tokens_per_s"]) == (2.5, 160.0) and "rows_per_s" not in found


def test_memory_is_what_the_process_holds_now() -> None:
    before = memory_bytes(CPU)
    held = bytearray(b"x" * 64_000_000)
    assert 60_000_000 < memory_bytes(CPU) - before < 80_000_000
    del held
    # It comes down again, as a peak does not.
    assert memory_bytes(CPU) - before < 10_000_000
    assert memory_bytes(CPU) <= peak_memory_bytes()


@pytest.mark.parametrize("rate", ["rows_per_s", "tokens_per_s"])
def test_each_step_of_a_training_says_what_it_cost(rate: str, tmp_path: Path) -> None:
    began = time.perf_counter()
    fit(
        job(steps=6) if rate == "rows_per_s" else test_language_models.job(steps=6),
        tmp_path,
        OneProcess(CPU),
        Progress(),
    )
    taken = time.perf_counter() - began
    lines = read_metrics(tmp_path / "metrics.jsonl")
    steps = [line for line in lines if line["kind"] == "step"]
    for line in steps:
        counted = rate.removesuffix("_per_s")
        assert set(COSTS) & set(line) == {"seconds", "waited_seconds", counted, rate, "memory_bytes"}
        assert line["memory_bytes"] > 1e7
        assert 0 < line["waited_seconds"] < line["seconds"]
        assert line[rate] == pytest.approx(line[counted] / line["seconds"], rel=1e-3, abs=0.1)
    assert 0 < sum(line["seconds"] for line in steps) < taken
    # 37 rows in steps of 8: the fifth of the epoch has 5.
    if rate == "rows_per_s":
        assert sorted(line["rows"] for line in steps) == [5, 8, 8, 8, 8, 8]
    assert not any(set(COSTS) & set(line) for line in lines if line["kind"] == "validation")


def test_a_training_goes_on_after_lines_without_costs(tmp_path: Path) -> None:
    """As an earlier version wrote them."""
    with pytest.raises(KeyboardInterrupt):
        fit(job(teacher=StopsAt(9)), tmp_path, OneProcess(CPU), Progress())
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(older(line)) + "\n" for line in read_metrics(path)))
    fit(job(), tmp_path, OneProcess(CPU), Progress())
    steps = [line for line in read_metrics(path) if line["kind"] == "step"]
    assert [line["step"] for line in steps] == list(range(1, 22))
    assert ["seconds" in line for line in steps] == [False] * 8 + [True] * 13


def older(line: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in line.items() if key not in COSTS}
