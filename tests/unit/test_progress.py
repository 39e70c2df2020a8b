"""What is told while work goes on: how far it is, how fast, and how long it will take."""

import time
from collections.abc import Iterator

import pytest

from potstill import progress
from potstill.progress import PlainProgress, TerminalProgress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    yield now


def test_rate_and_what_is_left_are_those_of_this_process(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with PlainProgress(seconds_between=1.0).task("train", 1000, "steps") as advance:
        advance(900, earlier=True)
        clock[0] += 10
        advance(20, "loss 0.5")
        clock[0] += 10
        advance(30)
    assert capsys.readouterr().err.splitlines() == [
        "  train: 920/1000 steps, 2.0/s, 0:40 left loss 0.5",
        "  train: 950/1000 steps, 2.5/s, 0:20 left",
        "  train: 50 steps in 0:20",
    ]


def test_nothing_is_said_of_how_long_it_takes_before_anything_was_done(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with PlainProgress(seconds_between=1.0).task("label", 10, "rows") as advance:
        clock[0] += 5
        advance(10, earlier=True)
    assert capsys.readouterr().err.splitlines() == ["  label: 10/10 rows, 0.0/s", "  label: 0 rows in 0:05"]


def test_bars_begin_where_an_earlier_process_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[progress.RichBars] = []

    class Watched(progress.RichBars):
        def __enter__(self) -> "Watched":
            made.append(self)
            super().__enter__()
            return self

    monkeypatch.setattr(progress, "RichBars", Watched)
    with TerminalProgress().task("train", 1000, "steps") as advance:
        advance(900, earlier=True)
        [bar] = made[0].tasks
        assert (bar.completed, bar.total, bar.speed) == (900, 1000, None)
        started = time.monotonic()
        advance(1)
        rate = float(bar.fields["rate"].removesuffix(" steps/s").replace(",", ""))
        # The clock began before the first step did.
        assert bar.completed == 901 and rate * (time.monotonic() - started) < 1.01
