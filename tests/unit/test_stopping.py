"""A signal stops at once, or where a block of work can stop well, and is never lost."""

import os
import signal
from collections.abc import Iterator

import pytest

from potstill import stopping
from potstill.errors import Stopped


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    monkeypatch.setattr(stopping, "_arrived", None)
    stopping.install()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def test_outside_a_deferring_block_a_signal_stops_at_once() -> None:
    with pytest.raises(Stopped, match=r"Stopped by SIGTERM\. Everything is saved"):
        send(signal.SIGTERM)


def test_within_one_it_is_noted_and_the_block_stops_where_it_can() -> None:
    reached = False
    with pytest.raises(Stopped, match="Stopped by SIGINT"), stopping.deferred():
        assert not stopping.requested()
        send(signal.SIGINT)
        reached = stopping.requested()
        raise stopping.stop()
    assert reached


def test_one_that_comes_after_the_last_question_stops_at_the_end_of_the_block() -> None:
    ended = False
    with pytest.raises(Stopped), stopping.deferred():
        with stopping.deferred():
            send(signal.SIGTERM)
        ended = True
    assert ended, "the inner block must not stop what defers around it"


def test_a_second_sigterm_waits_and_a_second_ctrl_c_does_not() -> None:
    reached = []
    with pytest.raises(Stopped, match="at once by a second Ctrl-C"), stopping.deferred():
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        reached.append("after SIGTERM")
        send(signal.SIGINT)
        reached.append("after SIGINT")
    assert reached == ["after SIGTERM"]


def test_a_block_that_failed_keeps_its_own_error() -> None:
    with pytest.raises(KeyError), stopping.deferred():
        send(signal.SIGTERM)
        raise KeyError("the cause")
