"""Trackers that a training opened are closed, however it ends."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest

from potstill.errors import RecipeError, TrainingError
from potstill.training import metrics

CLOSED: list[str] = []


class Opened:
    def __init__(self, folder: Path, run: str, name: str) -> None:
        self.name = name

    def log(self, values: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None:
        CLOSED.append(self.name)


def refused(folder: Path, run: str) -> Opened:
    raise RecipeError("train.trackers: not installed")


@pytest.fixture(autouse=True)
def makers(monkeypatch: pytest.MonkeyPatch) -> None:
    CLOSED.clear()
    known = {name: partial(Opened, name=name) for name in ("first", "second")} | {"none": refused}
    monkeypatch.setattr(metrics, "_TRACKERS", known)


def test_those_before_one_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(RecipeError), metrics.open_trackers(("first", "second", "none"), tmp_path, "student"):
        raise AssertionError("opened without one of them")
    assert sorted(CLOSED) == ["first", "second"]


def test_all_of_a_training_that_ends_or_fails(tmp_path: Path) -> None:
    with metrics.open_trackers(("first", "second"), tmp_path, "student") as trackers:
        assert len(trackers) == 2 and not CLOSED
    assert sorted(CLOSED) == ["first", "second"]
    CLOSED.clear()
    with pytest.raises(TrainingError), metrics.open_trackers(("first",), tmp_path, "student"):
        raise TrainingError("the loss is nan")
    assert CLOSED == ["first"]
